//! YAML's merge keys (`<<`), as kubectl reads them (yaml.v2): entries take effect in their order, so that a merge that
//! stands behind a key replaces it; of a list of mappings the first that has a key gives it.

use std::{borrow::Cow, collections::HashMap, ops::Range};

use super::node::Token;

const KEY: &str = "<<";

/// What a merge key stands for must be a mapping or a list of them.
pub(super) const REFUSED: &str =
    "the merge key `<<` needs a mapping, or a list of mappings; write the fields out";

/// One entry of the mapping that comes of it.
struct Entry {
    key: String,
    value: Range<usize>,
    merged: bool,
}

/// Folds the merge keys of the mapping whose entries begin at `first` and end the tape; `Err` where one merges what cannot
/// be. A text under `<<` stays a plain entry: only a quoted key can have it, which is no merge key.
pub(super) fn fold(tokens: &mut Vec<Token<'_>>, first: usize) -> Result<(), &'static str> {
    let merges = |(key, value): &(usize, Range<usize>)| {
        matches!(&tokens[*key], Token::Text(text) if text == KEY)
            && !matches!(tokens[value.start], Token::Text(_))
    };
    let found = entries(tokens, first, tokens.len());
    if !found.iter().any(merges) {
        return Ok(());
    }
    let mut out = Out::default();
    for entry in found {
        let (key, value) = &entry;
        if !merges(&entry) {
            out.put(text(tokens, *key), value.clone(), false);
            continue;
        }
        for map in mappings(tokens, value)?.into_iter().rev() {
            for (key, value) in entries(tokens, map.start + 1, map.end) {
                out.put(text(tokens, key), value, true);
            }
        }
    }
    let mut folded: Vec<Token<'_>> = Vec::new();
    for entry in out.entries {
        folded.push(Token::Text(Cow::Owned(entry.key)));
        let to = first + folded.len();
        let moved = tokens[entry.value.clone()].iter().cloned();
        folded.extend(moved.map(|token| token.moved(entry.value.start, to)));
    }
    tokens.truncate(first);
    tokens.append(&mut folded);
    Ok(())
}

#[derive(Default)]
struct Out {
    entries: Vec<Entry>,
    places: HashMap<String, usize>,
}

impl Out {
    /// What a merge gave is replaced, and replaces. A key that is written twice stays so: whoever reads it says so.
    fn put(&mut self, key: String, value: Range<usize>, merged: bool) {
        if let Some(place) = self.places.get(&key)
            && (merged || self.entries[*place].merged)
        {
            self.entries[*place].value = value;
            self.entries[*place].merged &= merged;
            return;
        }
        self.places.insert(key.clone(), self.entries.len());
        self.entries.push(Entry { key, value, merged });
    }
}

fn text(tokens: &[Token<'_>], at: usize) -> String {
    match &tokens[at] {
        Token::Text(text) => text.to_string(),
        _ => String::new(),
    }
}

/// Places of keys, and of values with all that is in them.
fn entries(tokens: &[Token<'_>], first: usize, end: usize) -> Vec<(usize, Range<usize>)> {
    let mut out = Vec::new();
    let mut at = first;
    while at < end {
        let value = at + 1..tokens[at + 1].end(at + 1);
        let next = value.end;
        out.push((at, value));
        at = next;
    }
    out
}

/// The mappings under a merge key, in their order.
fn mappings(tokens: &[Token<'_>], value: &Range<usize>) -> Result<Vec<Range<usize>>, &'static str> {
    let is_map = |at: usize| matches!(tokens[at], Token::Map { .. });
    if is_map(value.start) {
        return Ok(vec![value.clone()]);
    }
    if !matches!(tokens[value.start], Token::List { .. }) {
        return Err(REFUSED);
    }
    let mut out = Vec::new();
    let mut at = value.start + 1;
    while at < value.end {
        if !is_map(at) {
            return Err(REFUSED);
        }
        let end = tokens[at].end(at);
        out.push(at..end);
        at = end;
    }
    Ok(out)
}
