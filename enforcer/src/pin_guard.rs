//! Holds the pinned kernel objects open, so that pins which somebody removes can be put back with all that they hold:
//! rows, policy states, flows and counters stay what they were, and no program has to be replaced.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::maps::MapData;
use aya::programs::SchedClassifier;
use state::Locked;

use crate::bpffs;
use crate::load::{PROGRAM_CLOCK, PROGRAM_EGRESS, PROGRAM_INGRESS};
use crate::maps;
use crate::pins::Pins;

/// Why pins could not be put back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No bpffs.
    #[error(transparent)]
    Bpffs(#[from] bpffs::Error),
    /// A map.
    #[error(transparent)]
    Map(#[from] maps::Error),
    /// A program or a pin.
    #[error("pin {path}: {detail}")]
    Pin {
        /// The pin.
        path: PathBuf,
        /// Why.
        detail: String,
    },
    /// A folder.
    #[error("make pin folder {path}: {source}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Every pinned map and program, open.
pub struct PinGuard {
    pins: Pins,
    maps: Vec<(&'static str, MapData)>,
    programs: Vec<(&'static str, SchedClassifier)>,
}

const PROGRAMS: [&str; 3] = [PROGRAM_CLOCK, PROGRAM_EGRESS, PROGRAM_INGRESS];

impl PinGuard {
    /// Opens everything that is pinned.
    ///
    /// # Errors
    /// If something is missing.
    pub fn open(pins: &Pins) -> Result<Self, Error> {
        let mut open = Vec::with_capacity(maps::ALL.len());
        for name in maps::ALL {
            open.push((*name, maps::data(pins, name)?));
        }
        let mut programs = Vec::with_capacity(PROGRAMS.len());
        for name in PROGRAMS {
            let path = pins.program(name);
            let program = SchedClassifier::from_pin(&path).map_err(|e| Error::Pin {
                path,
                detail: e.to_string(),
            })?;
            programs.push((name, program));
        }
        Ok(Self {
            pins: pins.clone(),
            maps: open,
            programs,
        })
    }

    /// The pins that are not there any more.
    pub fn missing(&self) -> Vec<PathBuf> {
        let maps = self.maps.iter().map(|(name, _)| self.pins.map(name));
        let programs = PROGRAMS.iter().map(|name| self.pins.program(name));
        maps.chain(programs).filter(|path| !path.exists()).collect()
    }

    /// Puts back what is missing, unless somebody has loaded anew meanwhile: then nothing is touched, and what is pinned
    /// now is to be taken up instead. Returns what was put back.
    ///
    /// # Errors
    /// If the kernel refuses; what was put back stays.
    pub fn restore(&mut self, _: &Locked<'_>, bpf_dir: &Path) -> Result<Vec<PathBuf>, Error> {
        let mut back = Vec::new();
        if self.missing().is_empty() {
            return Ok(back);
        }
        bpffs::ensure(bpf_dir)?;
        for folder in [self.pins.maps(), self.pins.programs(), self.pins.links()] {
            fs::create_dir_all(&folder).map_err(|source| Error::Folder {
                path: folder,
                source,
            })?;
        }
        let fail = |path: &Path, e: &dyn std::fmt::Display| Error::Pin {
            path: path.to_path_buf(),
            detail: e.to_string(),
        };
        for (name, map) in &self.maps {
            let path = self.pins.map(name);
            if !path.exists() {
                map.pin(&path).map_err(|e| fail(&path, &e))?;
                back.push(path);
            }
        }
        for (name, program) in &mut self.programs {
            let path = self.pins.program(name);
            if !path.exists() {
                program.pin(&path).map_err(|e| fail(&path, &e))?;
                back.push(path);
            }
        }
        Ok(back)
    }
}
