//! podgate's entry in the text of a CNI network configuration list. Pure: text in, text out, every other byte kept.

use serde::Deserialize;
use serde_json::value::RawValue;

/// Plugins that touch the pod's interface after the main plugin made it: a qdisc that `bandwidth` makes, a hardware address
/// that `tuning` changes, the second pair of `egress-cni`. podgate stands behind them.
const IN_FRONT: [&str; 3] = ["bandwidth", "tuning", "egress-cni"];
/// podgate stands before it: it must know of a hostPort before the node forwards it.
const BEHIND: &str = "portmap";
/// The plugin's type.
const OURS: &str = "podgate";

/// Why a list cannot be changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Not a configuration list.
    #[error("not a CNI network configuration list (an object with `plugins`): {0}")]
    Malformed(#[from] serde_json::Error),
    /// No plugin to stand behind.
    #[error("the list has no plugin that makes an interface")]
    Empty,
}

#[derive(Deserialize)]
struct List<'a> {
    #[serde(borrow)]
    plugins: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Plugin {
    #[serde(rename = "type")]
    kind: String,
}

/// One element of `plugins`: its type and where its text stands.
struct Element {
    kind: String,
    start: usize,
    end: usize,
}

fn elements(text: &str) -> Result<Vec<Element>, Error> {
    let list: List<'_> = serde_json::from_str(text)?;
    list.plugins
        .into_iter()
        .map(|raw| {
            let plugin: Plugin = serde_json::from_str(raw.get())?;
            // `RawValue` borrows from `text`.
            let start = raw.get().as_ptr().addr() - text.as_ptr().addr();
            Ok(Element {
                kind: plugin.kind,
                start,
                end: start + raw.get().len(),
            })
        })
        .collect()
}

/// The types of the list's plugins, in order.
pub(crate) fn types(text: &str) -> Result<Vec<String>, Error> {
    Ok(elements(text)?.into_iter().map(|e| e.kind).collect())
}

/// The list with podgate at its place; `None` where it stands there already.
///
/// An entry that stands elsewhere is moved as it is.
pub(crate) fn insert(text: &str) -> Result<Option<String>, Error> {
    let there = elements(text)?;
    let Some(ours) = there.iter().position(|e| e.kind == OURS) else {
        return insert_entry(text, None).map(Some);
    };
    let others: Vec<&str> = kinds(&there).filter(|kind| *kind != OURS).collect();
    if ours == place(&others)? && kinds(&there).filter(|kind| *kind == OURS).count() == 1 {
        return Ok(None);
    }
    let entry = text[there[ours].start..there[ours].end].to_owned();
    let without = remove(text)?.unwrap_or_else(|| text.to_owned());
    insert_entry(&without, Some(entry)).map(Some)
}

/// The list without podgate; `None` where it does not stand there.
pub(crate) fn remove(text: &str) -> Result<Option<String>, Error> {
    let mut text = text.to_owned();
    let mut removed = false;
    loop {
        let there = elements(&text)?;
        let Some(ours) = there.iter().position(|e| e.kind == OURS) else {
            return Ok(removed.then_some(text));
        };
        let cut = match (ours.checked_sub(1), there.get(ours + 1)) {
            (_, Some(next)) => there[ours].start..next.start,
            (Some(before), None) => there[before].end..there[ours].end,
            (None, None) => there[ours].start..there[ours].end,
        };
        text.replace_range(cut, "");
        removed = true;
    }
}

fn kinds(elements: &[Element]) -> impl Iterator<Item = &str> {
    elements.iter().map(|element| element.kind.as_str())
}

/// Where podgate belongs among the others: behind the main plugin and the last one of [`IN_FRONT`], before [`BEHIND`]
/// where both can be had.
fn place(others: &[&str]) -> Result<usize, Error> {
    if others.is_empty() {
        return Err(Error::Empty);
    }
    let in_front = others.iter().rposition(|kind| IN_FRONT.contains(kind));
    let least = in_front.map_or(1, |last| last + 1);
    let portmap = others.iter().position(|kind| *kind == BEHIND);
    Ok(portmap.unwrap_or(others.len()).max(least))
}

fn insert_entry(text: &str, entry: Option<String>) -> Result<String, Error> {
    let there = elements(text)?;
    let others: Vec<&str> = kinds(&there).collect();
    let place = place(&others)?;
    let bytes_between = |before: usize| &text[there[before].end..there[before + 1].start];
    let (at, separator) = if let Some(next) = there.get(place) {
        (next.start, bytes_between(place - 1).to_owned())
    } else {
        let last = there[place - 1].end;
        let separator = if place > 1 {
            bytes_between(place - 2).to_owned()
        } else {
            let before = &text[..there[0].start];
            let blank = before.len() - before.trim_end().len();
            format!(",{}", &before[before.len() - blank..])
        };
        (last, separator)
    };
    let entry = entry.unwrap_or_else(|| {
        let indent = separator.rsplit_once('\n').map(|(_, indent)| indent);
        new_entry(indent)
    });
    let mut out = text.to_owned();
    if there.get(place).is_some() {
        out.insert_str(at, &format!("{entry}{separator}"));
    } else {
        out.insert_str(at, &format!("{separator}{entry}"));
    }
    Ok(out)
}

/// The entry, on several lines where the list's elements begin on lines of their own.
fn new_entry(indent: Option<&str>) -> String {
    let Some(indent) = indent else {
        return r#"{"type": "podgate", "capabilities": {"portMappings": true}}"#.to_owned();
    };
    let step = if indent.contains('\t') { "\t" } else { "  " };
    format!(
        "{{\n{indent}{step}\"type\": \"podgate\",\n{indent}{step}\"capabilities\": {{\"portMappings\": true}}\n{indent}}}"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// Amazon's chain as aws-node writes it (amazon-vpc-cni-k8s, misc/10-aws.conflist), shortened where plugins have many keys.
    const AWS: &str = r#"{
  "cniVersion": "0.4.0",
  "name": "aws-cni",
  "disableCheck": true,
  "plugins": [
    {
      "name": "aws-cni",
      "type": "aws-cni",
      "vethPrefix": "eni",
      "mtu": "9001"
    },
    {
      "name": "egress-cni",
      "type": "egress-cni",
      "ipam": {"type": "host-local", "ranges": [[{"subnet": "fd00::ac:00/118"}]]}
    },
    {
      "type": "portmap",
      "capabilities": {"portMappings": true},
      "snat": true
    }
  ]
}
"#;
    const KUBEADM: &str = "{\"cniVersion\":\"1.0.0\",\"name\":\"bridge\",\"plugins\":[{\"type\":\"bridge\",\"bridge\":\"cni0\"},{\"type\":\"portmap\"}]}";
    const SHAPED: &str = "{\n\t\"name\": \"k8s\",\n\t\"plugins\": [\n\t\t{ \"type\": \"ptp\" },\n\t\t{ \"type\": \"portmap\" },\n\t\t{ \"type\": \"bandwidth\" },\n\t\t{ \"type\": \"tuning\" }\n\t]\n}";
    const ONE: &str = "{\"name\":\"n\",\"plugins\":[ {\"type\":\"ptp\"} ]}";
    const FLANNEL: &str = "{\"name\":\"cbr0\",\"plugins\":[\n    {\n      \"type\":\"flannel\"\n    },\n    {\n      \"type\":\"portmap\"\n    },\n    {\n      \"type\":\"bandwidth\"\n    }\n  ]\n}";

    #[test]
    fn podgate_stands_behind_what_touches_the_interface_and_before_portmap() {
        for (text, want) in [
            (AWS, "aws-cni egress-cni podgate portmap"),
            (KUBEADM, "bridge podgate portmap"),
            (SHAPED, "ptp portmap bandwidth tuning podgate"),
            (ONE, "ptp podgate"),
            (FLANNEL, "flannel portmap bandwidth podgate"),
        ] {
            let made = insert(text).unwrap().unwrap();
            assert_eq!(types(&made).unwrap().join(" "), want, "{made}");
        }
    }

    #[test]
    fn every_other_byte_stays_and_comes_back() {
        for text in [AWS, KUBEADM, SHAPED, ONE, FLANNEL] {
            let made = insert(text).unwrap().unwrap();
            // One insertion: what stands before and behind it is the text.
            let added = made.len() - text.len();
            let same = made
                .bytes()
                .zip(text.bytes())
                .take_while(|(a, b)| a == b)
                .count();
            assert_eq!(&made[same + added..], &text[same..]);
            assert_eq!(remove(&made).unwrap().as_deref(), Some(text));
            assert_eq!(insert(&made).unwrap(), None, "at its place already");
            assert_eq!(remove(text).unwrap(), None);
            let value: Value = serde_json::from_str(&made).unwrap();
            let list = value["plugins"].as_array().unwrap();
            let ours = list.iter().find(|plugin| plugin["type"] == "podgate");
            assert_eq!(ours.unwrap()["capabilities"]["portMappings"], true);
        }
    }

    #[test]
    fn an_entry_at_the_wrong_place_is_moved_with_its_keys() {
        let wrong = r#"{"plugins":[{"type":"podgate","attachMode":"tcx"},{"type":"ptp"},{"type":"bandwidth"},{"type":"podgate"}]}"#;
        let made = insert(wrong).unwrap().unwrap();
        assert_eq!(types(&made).unwrap(), ["ptp", "bandwidth", "podgate"]);
        assert!(made.contains("\"attachMode\":\"tcx\""), "{made}");
    }

    #[test]
    fn what_is_not_a_list_is_an_error() {
        for text in [
            "",
            "[]",
            "{}",
            "{\"plugins\":[]}",
            "{\"plugins\":[{}]}",
            "{\"type\":\"ptp\"}",
            "{\"plugins\":[{\"type\":\"podgate\"}]}",
        ] {
            assert!(insert(text).is_err(), "{text}");
        }
    }
}
