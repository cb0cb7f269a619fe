//! `prevResult`: what the plugins before us made. It goes back out as it came in; only the names of its interfaces
//! and its addresses are looked at, because the rest need not be what the specification says (the AWS CNI keeps
//! route table numbers in `mac` and a device number in `sandbox`).

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use crate::object::{Object, kind};

/// A result that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none.
    #[error(
        "read prevResult: it is missing, and podgate enforces only interfaces that a plugin before it has made"
    )]
    Missing,
    /// It is no object.
    #[error("read prevResult: expected an object, found {0}")]
    NotAnObject(&'static str),
    /// What is needed of it has another shape.
    #[error("read prevResult: {0}")]
    Shape(#[from] serde_json::Error),
    /// An address that is none.
    #[error("read prevResult.ips: {0:?} is not an IP address with a prefix length")]
    Address(String),
}

/// The result of the plugins before us.
#[derive(Debug, Clone)]
pub struct PrevResult {
    object: Object,
    /// The interfaces, in order: `ips` refers to them by position.
    pub interfaces: Vec<Interface>,
    /// The addresses.
    pub addresses: Vec<Address>,
}

/// One interface of the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// The namespace it is in; `None` for the host's (and for what is no text at all).
    pub sandbox: Option<String>,
}

/// One address of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The address itself, without its prefix length.
    pub ip: IpAddr,
    /// The position of its interface in [`PrevResult::interfaces`], where it names one that exists.
    pub interface: Option<usize>,
}

#[derive(Deserialize)]
struct View {
    interfaces: Option<Vec<RawInterface>>,
    ips: Option<Vec<RawAddress>>,
}

#[derive(Deserialize)]
struct RawInterface {
    name: String,
    sandbox: Option<Value>,
}

#[derive(Deserialize)]
struct RawAddress {
    address: String,
    interface: Option<Value>,
}

impl PrevResult {
    /// Reads the member `prevResult` of a configuration.
    ///
    /// # Errors
    /// It is missing, is no object, or its interfaces and addresses cannot be read.
    pub fn read(config: &Object) -> Result<Self, Error> {
        Self::parse(config.get("prevResult").ok_or(Error::Missing)?)
    }

    fn parse(raw: &RawValue) -> Result<Self, Error> {
        if kind(raw) != "an object" {
            return Err(Error::NotAnObject(kind(raw)));
        }
        let view: View = serde_json::from_str(raw.get())?;
        let interfaces: Vec<_> = view
            .interfaces
            .unwrap_or_default()
            .into_iter()
            .map(interface)
            .collect();
        let entries = view.ips.unwrap_or_default();
        let addresses = entries
            .iter()
            .map(|entry| address(entry, interfaces.len()))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            object: Object::parse(raw.get().as_bytes())?,
            interfaces,
            addresses,
        })
    }

    /// The result as it goes to the runtime: as it came, under the version that was asked for. libcni has brought
    /// it to that version already, so this changes only results made by hand.
    #[must_use]
    pub fn render(&self, version: &str) -> String {
        self.object.render_with("cniVersion", version)
    }
}

fn interface(raw: RawInterface) -> Interface {
    let sandbox = raw
        .sandbox
        .as_ref()
        .and_then(Value::as_str)
        .filter(|path| !path.is_empty())
        .map(str::to_owned);
    Interface {
        name: raw.name,
        sandbox,
    }
}

fn address(raw: &RawAddress, interfaces: usize) -> Result<Address, Error> {
    let network: IpNetwork = raw
        .address
        .parse()
        .map_err(|_| Error::Address(raw.address.clone()))?;
    let index = raw
        .interface
        .as_ref()
        .and_then(Value::as_u64)
        .and_then(|index| usize::try_from(index).ok());
    Ok(Address {
        ip: network.ip(),
        interface: index.filter(|index| *index < interfaces),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<PrevResult, Error> {
        PrevResult::read(&Object::parse(format!("{{\"prevResult\":{text}}}").as_bytes()).unwrap())
    }

    #[test]
    fn aws_cni_result_is_read_and_kept() {
        let text = r#"{"cniVersion":"0.4.0","interfaces":[{"name":"eni456b416f2bf"},{"name":"eth0","mac":"254","sandbox":"/run/netns/x"},{"name":"dummy456b416f2bf","mac":"0","sandbox":"0"}],"ips":[{"version":"4","interface":1,"address":"192.0.2.1/32"}],"dns":{}}"#;
        let result = parse(text).unwrap();
        assert_eq!(result.render("0.4.0"), text);
        assert_eq!(
            result.interfaces,
            [
                Interface {
                    name: "eni456b416f2bf".into(),
                    sandbox: None
                },
                Interface {
                    name: "eth0".into(),
                    sandbox: Some("/run/netns/x".into())
                },
                Interface {
                    name: "dummy456b416f2bf".into(),
                    sandbox: Some("0".into())
                },
            ]
        );
        assert_eq!(
            result.addresses,
            [Address {
                ip: "192.0.2.1".parse().unwrap(),
                interface: Some(1)
            }]
        );
    }

    #[test]
    fn numbers_where_texts_should_be_do_not_matter_where_nobody_looks() {
        let text = r#"{"interfaces":[{"name":"eth0","mac":254,"sandbox":7}],"ips":[{"address":"fd00::1/64","interface":-1}],"routes":"x"}"#;
        let result = parse(text).unwrap();
        assert_eq!(result.interfaces[0].sandbox, None);
        assert_eq!(result.addresses[0].interface, None);
    }

    #[test]
    fn empty_null_and_absent_lists_are_no_interfaces() {
        for text in [
            "{}",
            r#"{"interfaces":null,"ips":null}"#,
            r#"{"interfaces":[],"ips":[]}"#,
        ] {
            let result = parse(text).unwrap();
            assert!(
                result.interfaces.is_empty() && result.addresses.is_empty(),
                "{text}"
            );
        }
        assert_eq!(
            parse("{}").unwrap().render("1.0.0"),
            r#"{"cniVersion":"1.0.0"}"#
        );
    }

    #[test]
    fn other_shapes_are_errors() {
        assert!(matches!(
            PrevResult::read(&Object::default()),
            Err(Error::Missing)
        ));
        for text in ["null", "[]", "\"x\"", "7", "true"] {
            assert!(matches!(parse(text), Err(Error::NotAnObject(_))), "{text}");
        }
        for text in [
            r#"{"interfaces":{}}"#,
            r#"{"interfaces":[7]}"#,
            r#"{"interfaces":[{}]}"#,
            r#"{"interfaces":[{"name":7}]}"#,
            r#"{"ips":"10.0.0.1/24"}"#,
            r#"{"ips":[{}]}"#,
        ] {
            assert!(matches!(parse(text), Err(Error::Shape(_))), "{text}");
        }
        assert!(matches!(
            parse(r#"{"ips":[{"address":"10.0.0.300/24"}]}"#),
            Err(Error::Address(_))
        ));
    }
}
