//! What is told on the standard error: errors and warnings, each with file, document and field. In a watch each is told once.

use std::collections::{BTreeMap, BTreeSet};

use resolve::{Object, ObjectKey, PolicyFile};

use super::sources::Input;

/// What was told in the pass before.
#[derive(Default)]
pub(super) struct Told {
    lines: BTreeSet<String>,
    policies: BTreeSet<String>,
}

impl Told {
    /// Tells of the input.
    pub(super) fn input(&mut self, input: &Input) {
        let mut lines = Vec::new();
        for why in &input.unreadable {
            lines.push(format!("error: {why}"));
        }
        for why in &input.held {
            lines.push(format!("error: {why}"));
        }
        for (file, error) in input.errors() {
            lines.push(format!("error: {file}: {error}"));
        }
        let mut seen = BTreeMap::new();
        for (file, item) in input.items() {
            let place = format!("{file}: document {}", item.document);
            let Some(key) = item.object.key() else {
                if let Object::Ignored {
                    api_version,
                    kind,
                    name,
                } = &item.object
                    && kind.contains("NetworkPolicy")
                {
                    lines.push(format!("warning: {place}: {kind}/{name}: left out, {api_version} is no kind of policy known here"));
                }
                continue;
            };
            for remark in &item.remarks {
                lines.push(format!("warning: {place} ({key}): {remark}"));
            }
            let before = seen.insert(key.clone(), (place.clone(), &item.object));
            if let Some((before, object)) = before
                && *object != item.object
            {
                lines.push(format!(
                    "warning: {place} ({key}): holds instead of the one in {before}"
                ));
            }
        }
        tell(&mut self.lines, lines);
    }

    /// Tells of what the policies came to.
    pub(super) fn policies<'a>(
        &mut self,
        files: impl Iterator<Item = &'a PolicyFile>,
        input: &Input,
    ) {
        let places: BTreeMap<ObjectKey, String> = input
            .items()
            .filter_map(|(file, item)| {
                Some((
                    item.object.key()?,
                    format!("{file}: document {}", item.document),
                ))
            })
            .collect();
        let mut lines = Vec::new();
        for file in files {
            let key = file.key();
            let place = places.get(key).map_or("input", String::as_str);
            for warning in file.findings() {
                lines.push(format!("warning: {place} ({key}): {warning}"));
            }
            for service in file.service_wider() {
                lines.push(format!(
                    "warning: {place} ({key}): Service {service} is allowed though only some of its backends are (--strict-services refuses it)"
                ));
            }
        }
        tell(&mut self.policies, lines);
    }
}

fn tell(told: &mut BTreeSet<String>, lines: Vec<String>) {
    for line in &lines {
        if !told.contains(line) {
            eprintln!("podgatectl: {line}");
        }
    }
    *told = lines.into_iter().collect();
}
