//! What many kinds share: names, labels, selectors, blocks, ports.

use std::{collections::BTreeSet, net::IpAddr, str::FromStr};

use super::Remark;
use crate::model::{ObjectKey, ObjectKind};
use policy::{
    documents::{
        Fault, Labels, Protocol,
        cursor::{Cursor, Result},
    },
    prefix::{Prefix, PrefixError},
    select::{Operator, Requirement, Selector},
};

/// The label that every namespace has, with its own name.
pub(crate) const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// A text cut to a readable length.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

/// Text under a key; empty counts as absent.
pub(super) fn text<'n>(cursor: &Cursor<'n, '_>, key: &str) -> Result<Option<&'n str>> {
    Ok(cursor
        .get(key)?
        .map(|c| c.text())
        .transpose()?
        .filter(|text| !text.is_empty()))
}

/// Which object.
pub(super) fn key(
    root: &Cursor<'_, '_>,
    kind: ObjectKind,
    default_namespace: &str,
) -> Result<ObjectKey> {
    let Some(metadata) = root.get("metadata")? else {
        return Err(root.missing("metadata", "a mapping with a name"));
    };
    let Some(name) = text(&metadata, "name")? else {
        return Err(metadata.missing("name", "the object's name"));
    };
    if !is_name(name) {
        return Err(metadata
            .get("name")?
            .as_ref()
            .unwrap_or(&metadata)
            .unknown(name, "a name of lower case letters, digits, `-` and `.`"));
    }
    let namespace = match (kind.is_namespaced(), text(&metadata, "namespace")?) {
        (false, _) => "",
        (true, None) => default_namespace,
        (true, Some(namespace)) if is_name(namespace) => namespace,
        (true, Some(namespace)) => {
            return Err(metadata
                .get("namespace")?
                .as_ref()
                .unwrap_or(&metadata)
                .unknown(namespace, "a namespace's name"));
        }
    };
    Ok(ObjectKey {
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    })
}

/// What can be the name of an object, and with it of a file.
pub(super) fn is_name(name: &str) -> bool {
    name.len() <= 253
        && name.split('.').all(|part| {
            !part.is_empty()
                && !part.starts_with('-')
                && !part.ends_with('-')
                && part
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        })
}

/// `metadata.uid` and `metadata.generation`; absent = empty and 0.
pub(super) fn version(root: &Cursor<'_, '_>) -> Result<(String, i64)> {
    let Some(metadata) = root.get("metadata")? else {
        return Ok(Default::default());
    };
    let uid = text(&metadata, "uid")?.unwrap_or_default().to_owned();
    let generation = metadata.get("generation")?.map(|c| c.int(0, i64::MAX));
    Ok((uid, generation.transpose()?.unwrap_or_default()))
}

/// `metadata.labels`.
pub(super) fn labels(root: &Cursor<'_, '_>) -> Result<Labels> {
    let Some(metadata) = root.get("metadata")? else {
        return Ok(Labels::new());
    };
    map(&metadata, "labels")
}

/// A mapping of text to text.
pub(super) fn map(cursor: &Cursor<'_, '_>, key: &str) -> Result<Labels> {
    let mut out = Labels::new();
    if let Some(entries) = cursor.get(key)? {
        for (key, value) in entries.entries()? {
            let text = if value.node.is_null() {
                ""
            } else {
                value.text()?
            };
            if out.insert(key.to_owned(), text.to_owned()).is_some() {
                return Err(value.fault(Fault::Twice));
            }
        }
    }
    Ok(out)
}

/// Refuses every field but these: a misspelt one would be policy lost.
pub(super) fn only(cursor: &Cursor<'_, '_>, known: &[&str]) -> Result<()> {
    for (key, value) in cursor.entries()? {
        if !known.contains(&key) {
            return Err(value.fault(Fault::UnknownField));
        }
    }
    Ok(())
}

/// The fields of a whole policy.
pub(super) fn only_policy(root: &Cursor<'_, '_>) -> Result<()> {
    only(root, &["apiVersion", "kind", "metadata", "spec", "status"])
}

/// A label selector.
pub(super) fn selector(cursor: &Cursor<'_, '_>) -> Result<Selector> {
    only(cursor, &["matchLabels", "matchExpressions"])?;
    let mut requirements = Vec::new();
    if let Some(labels) = cursor.get("matchLabels")? {
        for (key, value) in labels.entries()? {
            if !is_label_key(key) {
                return Err(value.unknown(key, "a label's key"));
            }
            requirements.push(Requirement {
                key: key.to_owned(),
                operator: Operator::In([label_value(&value)?].into()),
            });
        }
    }
    if let Some(expressions) = cursor.get("matchExpressions")? {
        for expression in expressions.items()? {
            requirements.push(requirement(&expression)?);
        }
    }
    requirements.sort_unstable();
    requirements.dedup();
    Ok(Selector { requirements })
}

fn requirement(expression: &Cursor<'_, '_>) -> Result<Requirement> {
    only(expression, &["key", "operator", "values"])?;
    let Some(key) = expression.get("key")? else {
        return Err(expression.missing("key", "a label's key"));
    };
    let name = key.text()?;
    if !is_label_key(name) {
        return Err(key.unknown(name, "a label's key"));
    }
    let mut values = BTreeSet::new();
    let list = expression.get("values")?;
    if let Some(list) = &list {
        for value in list.items()? {
            values.insert(label_value(&value)?);
        }
    }
    let Some(operator) = expression.get("operator")? else {
        return Err(expression.missing("operator", "In, NotIn, Exists or DoesNotExist"));
    };
    let word = operator.text()?;
    let refuse = |problem| {
        let fault = Fault::Values {
            operator: word.to_owned(),
            problem,
        };
        match &list {
            Some(list) => Err(list.fault(fault)),
            None => Err(expression.fault(fault)),
        }
    };
    let operator = match (word, values.is_empty()) {
        ("In", false) => Operator::In(values),
        ("NotIn", false) => Operator::NotIn(values),
        ("Exists", true) => Operator::Exists,
        ("DoesNotExist", true) => Operator::DoesNotExist,
        ("In" | "NotIn", true) => return refuse("needs values"),
        ("Exists" | "DoesNotExist", false) => return refuse("takes no values"),
        _ => return Err(operator.unknown(word, "In, NotIn, Exists or DoesNotExist")),
    };
    Ok(Requirement {
        key: name.to_owned(),
        operator,
    })
}

fn label_value(cursor: &Cursor<'_, '_>) -> Result<String> {
    let value = cursor.text()?;
    if value.is_empty() || is_qualified(value) {
        Ok(value.to_owned())
    } else {
        Err(cursor.unknown(value, "a label's value"))
    }
}

fn is_label_key(key: &str) -> bool {
    match key.split_once('/') {
        None => is_qualified(key),
        Some((prefix, name)) => is_name(prefix) && is_qualified(name),
    }
}

/// A name part of a label: 63 letters, digits, `-`, `_` and `.`, with a letter or digit at both ends.
fn is_qualified(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    text.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

/// A block of addresses.
pub(super) fn block(cursor: &Cursor<'_, '_>, remarks: &mut Vec<Remark>) -> Result<Prefix> {
    let text = cursor.text()?;
    let block = Prefix::from_str(text).map_err(|e| cursor.fault(e))?;
    let mut remark = |what: &str| {
        remarks.push(Remark {
            field: cursor.path(),
            text: format!("{text:?} {what}; {block} is used"),
        });
    };
    if !text.contains('/') {
        remark("has no length");
    } else if !text
        .split_once('/')
        .is_some_and(|(address, _)| address.parse() == Ok(block.address()))
    {
        remark("has host bits");
    }
    Ok(block)
}

/// An address of a status.
pub(super) fn address(cursor: &Cursor<'_, '_>) -> Result<Option<IpAddr>> {
    let text = cursor.text()?;
    if text.is_empty() {
        return Ok(None);
    }
    let refused = || cursor.fault(PrefixError::Text { text: shown(text) });
    match IpAddr::from_str(text).map_err(|_| refused())? {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Err(cursor.fault(PrefixError::Mapped { text: shown(text) }))
        }
        address => Ok(Some(address)),
    }
}

/// A protocol; absent is TCP.
pub(super) fn protocol(entry: &Cursor<'_, '_>) -> Result<Protocol> {
    let Some(cursor) = entry.get("protocol")? else {
        return Ok(Protocol::Tcp);
    };
    match cursor.text()? {
        "TCP" | "" => Ok(Protocol::Tcp),
        "UDP" => Ok(Protocol::Udp),
        "SCTP" => Ok(Protocol::Sctp),
        other => Err(cursor.unknown(other, "TCP, UDP or SCTP")),
    }
}

/// A port number under a key.
pub(super) fn number(entry: &Cursor<'_, '_>, key: &str) -> Result<Option<u16>> {
    let number = entry.get(key)?.map(|c| c.int(1, 65535)).transpose()?;
    Ok(number.and_then(|n| u16::try_from(n).ok()))
}

/// The name of a port, as IANA has it for services.
pub(super) fn port_name(cursor: &Cursor<'_, '_>) -> Result<String> {
    let name = cursor.text()?;
    let good = name.len() <= 15
        && name.bytes().any(|b| b.is_ascii_lowercase())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--");
    if good {
        Ok(name.to_owned())
    } else {
        Err(cursor.unknown(name, "a port number, or a port's name (15 lower case letters, digits and `-`, at least one letter)"))
    }
}

/// The one field of a mapping that has exactly one of these.
pub(super) fn one_of<'n, 'c>(
    cursor: &'c Cursor<'n, '_>,
    known: &'static [&'static str],
    refused: &'static str,
) -> Result<(&'static str, Cursor<'n, 'c>)> {
    only(cursor, known)?;
    let mut found = None;
    for key in known {
        if let Some(value) = cursor.get(key)?
            && found.replace((*key, value)).is_some()
        {
            return Err(cursor.fault(Fault::Refused(refused)));
        }
    }
    found.ok_or_else(|| cursor.fault(Fault::Refused(refused)))
}
