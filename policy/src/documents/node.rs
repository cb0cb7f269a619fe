//! A document as a tree, borrowed from its text where that is possible, with a budget against YAML bombs.

use std::{borrow::Cow, cell::Cell, fmt};

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// A value of a document.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node<'a> {
    Null,
    Bool(bool),
    Int(i64),
    /// A float, or an integer beyond i64: nothing that a policy document holds.
    Number,
    Text(Cow<'a, str>),
    List(Vec<Node<'a>>),
    Map(Vec<(Cow<'a, str>, Node<'a>)>),
}

impl Node<'_> {
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "true or false",
            Self::Int(_) => "a whole number",
            Self::Number => "a number out of range or with a fraction",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }

    /// The first value under a key, without a look at repetitions.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Map(entries) => entries.iter().find(|(k, _)| k == key).map(|(_, v)| v),
            _ => None,
        }
    }

    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// How much a text may unfold to. Written out, every value costs at least a byte of it; only aliases cost less.
pub(super) struct Budget(Cell<usize>);

impl Budget {
    pub(super) fn of_text(bytes: usize) -> Self {
        Self(Cell::new(bytes.saturating_mul(2).saturating_add(4096)))
    }

    /// Whether it has been used up.
    pub(super) fn spent(&self) -> bool {
        self.0.get() == 0
    }

    fn take<E: de::Error>(&self, cost: usize) -> Result<(), E> {
        let left = self.0.get().saturating_sub(cost);
        self.0.set(left);
        if left == 0 {
            Err(E::custom("aliases unfold too far"))
        } else {
            Ok(())
        }
    }
}

/// Reads one value.
pub(super) struct Seed<'b>(pub(super) &'b Budget);

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Node<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Node<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value without a tag")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Node<'de>, E> {
        self.0.take(1)?;
        Ok(Node::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Node<'de>, E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node<'de>, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Node<'de>, E> {
        self.0.take(1)?;
        Ok(Node::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Node<'de>, E> {
        self.0.take(1)?;
        Ok(Node::Int(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Node<'de>, E> {
        self.0.take(1)?;
        Ok(i64::try_from(value).map_or(Node::Number, Node::Int))
    }

    fn visit_i128<E: de::Error>(self, _: i128) -> Result<Node<'de>, E> {
        self.visit_f64(0.0)
    }

    fn visit_u128<E: de::Error>(self, _: u128) -> Result<Node<'de>, E> {
        self.visit_f64(0.0)
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Node<'de>, E> {
        self.0.take(1)?;
        Ok(Node::Number)
    }

    fn visit_borrowed_str<E: de::Error>(self, value: &'de str) -> Result<Node<'de>, E> {
        self.0.take(value.len().max(1))?;
        Ok(Node::Text(Cow::Borrowed(value)))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Node<'de>, E> {
        self.visit_string(value.to_owned())
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Node<'de>, E> {
        self.0.take(value.len().max(1))?;
        Ok(Node::Text(Cow::Owned(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node<'de>, A::Error> {
        self.0.take(1)?;
        let mut list = Vec::new();
        while let Some(value) = access.next_element_seed(Seed(self.0))? {
            list.push(value);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node<'de>, A::Error> {
        self.0.take(1)?;
        let mut entries = Vec::new();
        while let Some(key) = access.next_key_seed(Key(self.0))? {
            entries.push((key, access.next_value_seed(Seed(self.0))?));
        }
        Ok(Node::Map(entries))
    }
}

/// Reads a key; scalars that are not text (`80: x`) become text, which no field of ours is.
struct Key<'b>(&'b Budget);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Cow<'de, str>, D::Error> {
        Ok(match Seed(self.0).deserialize(deserializer)? {
            Node::Text(text) => text,
            Node::Int(number) => Cow::Owned(number.to_string()),
            Node::Bool(value) => Cow::Owned(value.to_string()),
            Node::Null => Cow::Borrowed("null"),
            Node::Number => Cow::Borrowed("a number"),
            Node::List(_) | Node::Map(_) => return Err(de::Error::custom("a key is not a scalar")),
        })
    }
}
