//! Rows that are surely without a problem at `quick`, told while they are parsed: nothing is built for them.
//!
//! A plain row is an object with nothing but its list of messages; each message has a known role, a text that holds no
//! control character and is not blank where it must not be, and nothing else; the order of roles is right. Whatever is
//! not plain, also for good reasons, goes the way that names its problems.

use super::content;
use hone_pipeline::spec::{Conversation, Mapping, Role, Spec};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// Whether a row is plain. True promises that every check of `quick` finds nothing.
pub(super) fn is_plain(spec: &Spec, text: &str) -> bool {
    let Mapping::Conversation(conversation) = &spec.mapping else { return false };
    if spec.rule.is_some() {
        return false;
    }
    let mut json = serde_json::Deserializer::from_str(text);
    Row(conversation).deserialize(&mut json).is_ok() && json.end().is_ok()
}

fn not_plain<T, E: Error>() -> Result<T, E> {
    Err(E::custom("not plain"))
}

/// Each part is a seed that visits its own kind of value and refuses every other.
macro_rules! part {
    ($name:ty, $value:ty, $method:ident, $visits:item) => {
        impl<'de> DeserializeSeed<'de> for $name {
            type Value = $value;
            fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<$value, D::Error> {
                json.$method(self)
            }
        }

        impl<'de> Visitor<'de> for $name {
            type Value = $value;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a part of a plain row")
            }
            $visits
        }
    };
}

/// The whole row.
struct Row<'c>(&'c Conversation);

part!(
    Row<'_>,
    (),
    deserialize_map,
    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        if fields.next_key_seed(Key(&[self.0.messages]))? != Some(0) {
            return not_plain();
        }
        fields.next_value_seed(Messages(self.0))?;
        match fields.next_key_seed(Key(&[]))? {
            None => Ok(()),
            Some(_) => not_plain(),
        }
    }
);

/// The list of messages.
struct Messages<'c>(&'c Conversation);

part!(
    Messages<'_>,
    (),
    deserialize_seq,
    fn visit_seq<A: SeqAccess<'de>>(self, mut messages: A) -> Result<(), A::Error> {
        let (mut last, mut has_user) = (None, false);
        while let Some(role) = messages.next_element_seed(Message(self.0))? {
            if role == Role::System && last.is_some() {
                return not_plain();
            }
            has_user |= role == Role::User;
            last = Some(role);
        }
        if has_user && last == Some(Role::Assistant) { Ok(()) } else { not_plain() }
    }
);

/// One message; gives its role.
struct Message<'c>(&'c Conversation);

part!(
    Message<'_>,
    Role,
    deserialize_map,
    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Role, A::Error> {
        let keys = [self.0.role, self.0.content];
        let (mut role, mut is_blank) = (None, None);
        while let Some(key) = fields.next_key_seed(Key(&keys))? {
            match key {
                0 if role.is_none() => role = Some(fields.next_value_seed(RoleName(self.0))?),
                1 if is_blank.is_none() => is_blank = Some(fields.next_value_seed(Content)?),
                _ => return not_plain(),
            }
        }
        match (role, is_blank) {
            (Some(role), Some(is_blank)) if !is_blank || matches!(role, Role::System | Role::Tool) => Ok(role),
            _ => not_plain(),
        }
    }
);

/// A key; gives its place among those that are known.
struct Key<'c>(&'c [&'static str]);

part!(
    Key<'_>,
    usize,
    deserialize_str,
    fn visit_str<E: Error>(self, key: &str) -> Result<usize, E> {
        self.0.iter().position(|known| *known == key).map_or_else(not_plain, Ok)
    }
);

/// The name of a role.
struct RoleName<'c>(&'c Conversation);

part!(
    RoleName<'_>,
    Role,
    deserialize_str,
    fn visit_str<E: Error>(self, name: &str) -> Result<Role, E> {
        self.0.roles.iter().find(|(known, _)| *known == name).map_or_else(not_plain, |(_, role)| Ok(*role))
    }
);

/// A text; gives whether it is blank.
struct Content;

part!(
    Content,
    bool,
    deserialize_str,
    fn visit_str<E: Error>(self, text: &str) -> Result<bool, E> {
        if content::first_control(text).is_some() {
            return not_plain();
        }
        Ok(text.trim().is_empty())
    }
);

#[cfg(test)]
mod tests;
