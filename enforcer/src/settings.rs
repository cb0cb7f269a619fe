//! The settings that the programs read (the map `CONFIG`), as `node.json` says them: at load, and whenever it changes.

use aya::maps::{Array, MapData};
use state::{Locked, NodeConfig};
use verdict::layout::Config;

use crate::clock;
use crate::load::{DEFAULT_FLOW_LIMIT, LoadOptions};
use crate::maps::{self, ConfigValue};
use crate::pins::Pins;

impl From<&NodeConfig> for LoadOptions {
    fn from(node: &NodeConfig) -> Self {
        Self {
            flow_limit: node
                .conntrack_cache_table_size
                .unwrap_or(DEFAULT_FLOW_LIMIT),
            node_ports: (node.node_port_range.first, node.node_port_range.last),
        }
    }
}

/// Why the settings could not be brought up to date.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A map.
    #[error(transparent)]
    Map(#[from] maps::Error),
    /// The kernel's tick.
    #[error(transparent)]
    Clock(#[from] clock::Error),
}

/// The settings of the running programs.
#[expect(
    missing_debug_implementations,
    reason = "handles of maps have no text form"
)]
pub struct Settings {
    config: Array<MapData, ConfigValue>,
    most_flows: u32,
}

impl Settings {
    /// Opens the pinned map.
    ///
    /// # Errors
    /// If nothing is loaded.
    pub fn open(pins: &Pins) -> Result<Self, maps::Error> {
        Ok(Self {
            config: maps::array(pins, "CONFIG")?,
            most_flows: maps::max_entries(pins, "FLOWS")?,
        })
    }

    /// What the programs read now.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn read(&self) -> Result<Config, maps::Error> {
        let value = self.config.get(&0, 0);
        value
            .map(|value| value.0)
            .map_err(|e| maps::Error::read("CONFIG", &e))
    }

    /// Whether the programs read what `node.json` says.
    ///
    /// # Errors
    /// If the map or the kernel's tick cannot be read.
    pub fn are(&self, node: &NodeConfig) -> Result<bool, Error> {
        let now = self.read()?;
        Ok(self.wanted(now, node)? == now)
    }

    /// Writes what `node.json` says; the rest stays. A flow limit beyond the size of the table waits for the next load.
    ///
    /// # Errors
    /// If the map or the kernel's tick cannot be read or written.
    pub fn apply(&mut self, _: &Locked<'_>, node: &NodeConfig) -> Result<(), Error> {
        let wanted = self.wanted(self.read()?, node)?;
        let written = self.config.set(0, ConfigValue(wanted), 0);
        Ok(written.map_err(|e| maps::Error::write("CONFIG", &e))?)
    }

    fn wanted(&self, now: Config, node: &NodeConfig) -> Result<Config, Error> {
        let options = LoadOptions::from(node);
        Ok(Config {
            hz: clock::hz()?,
            flow_limit: options.flow_limit.min(self.most_flows),
            node_port_first: options.node_ports.0,
            node_port_last: options.node_ports.1,
            ..now
        })
    }
}
