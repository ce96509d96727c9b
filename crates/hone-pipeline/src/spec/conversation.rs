//! Rules of a list of messages, for every format that has one. Pure.

use super::RowProblem;
use super::json::Json;

/// Where the parts of a conversation stand.
#[derive(Debug)]
pub struct Conversation {
    /// Column of the list.
    pub messages: &'static str,
    /// Key of a message's role.
    pub role: &'static str,
    /// Key of a message's text.
    pub content: &'static str,
    /// The names of roles.
    pub roles: &'static [(&'static str, Role)],
    /// Further keys of a message that templates know.
    pub other_keys: &'static [&'static str],
    /// Column of a system message outside the list.
    pub system: &'static str,
    /// Column of function schemas.
    pub tools: Option<&'static str>,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Instructions; only the first message.
    System,
    /// The person.
    User,
    /// The model; trained.
    Assistant,
    /// The result of a function.
    Tool,
}

impl Role {
    /// The name that templates use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }
}

impl Conversation {
    /// The role that a message names.
    #[must_use]
    pub fn role_of(&self, message: &Json<'_>) -> Option<Role> {
        let name = message.get(self.role)?.as_str()?;
        self.roles.iter().find(|(known, _)| *known == name).map(|(_, role)| *role)
    }

    pub(super) fn check(&self, row: &Json<'_>, problems: &mut Vec<RowProblem>) {
        // A missing or misshapen column was reported already.
        let Some(Json::Array(messages)) = row.get(self.messages) else { return };
        let mut roles = Vec::with_capacity(messages.len());
        for (i, message) in messages.iter().enumerate() {
            roles.push(self.check_message(i + 1, message, problems));
        }
        self.check_order(&roles, problems);
        self.check_system(row, messages, &roles, problems);
    }

    fn check_message(&self, number: usize, message: &Json<'_>, problems: &mut Vec<RowProblem>) -> Option<Role> {
        let (role_key, content_key) = (self.role, self.content);
        let shape = format!("a message is {{{role_key:?}: \"…\", {content_key:?}: \"…\"}}");
        let mut error = |code, message: String, hint: &str| problems.push(RowProblem::error(code, message, hint));
        let Json::Object(fields) = message else {
            error("message_not_object", format!("message {number} is {}, not an object", message.kind()), &shape);
            return None;
        };
        match message.get(role_key) {
            None => error("role_missing", format!("message {number} has no {role_key:?}"), &shape),
            Some(role) if self.role_of(message).is_none() => {
                let known: Vec<&str> = self.roles.iter().map(|(name, _)| *name).collect();
                let role = role.as_str().map_or_else(|| role.kind().to_string(), |name| format!("{name:.40?}"));
                error(
                    "role_unknown",
                    format!("message {number} has the role {role}"),
                    &format!("roles are {}", known.join(", ")),
                );
            }
            Some(_) => {}
        }
        match message.get(content_key) {
            Some(Json::String(_)) => {}
            None => error("content_missing", format!("message {number} has no {content_key:?}"), &shape),
            Some(Json::Null) => {
                error(
                    "content_type",
                    format!("{content_key:?} of message {number} is null, not a string"),
                    "write \"\" where there is no text",
                );
            }
            Some(other) => {
                let message = format!("{content_key:?} of message {number} is {}, not a string", other.kind());
                error("content_type", message, "join the parts to one string");
            }
        }
        for (key, value) in fields {
            if *value != Json::Null && key != role_key && key != content_key && !self.other_keys.contains(&key.as_ref())
            {
                let message = format!("the key {key:?} of message {number} has no meaning and is left out");
                problems.push(RowProblem::warning("message_key_unknown", message, shape.clone()));
            }
        }
        self.role_of(message)
    }

    fn check_order(&self, roles: &[Option<Role>], problems: &mut Vec<RowProblem>) {
        let mut error = |code, message: &str, hint: &str| problems.push(RowProblem::error(code, message, hint));
        if roles.is_empty() {
            error("messages_empty", "the list of messages is empty", "write at least a user and an assistant message");
            return;
        }
        if let Some(i) = roles.iter().skip(1).position(|role| *role == Some(Role::System)) {
            let message = format!("message {} is a system message; only the first may be one", i + 2);
            error("system_not_first", &message, "move it to the beginning, or make it part of another message");
        }
        // A role that is not known was reported; it may be the one that is looked for.
        let all_known = roles.iter().all(Option::is_some);
        if all_known && !roles.contains(&Some(Role::User)) {
            error("user_missing", "no message is the user's", "write at least one user message");
        }
        if let Some(last) = roles[roles.len() - 1].filter(|role| *role != Role::Assistant) {
            let message = format!("the last message is the {}'s, not the assistant's", last.name());
            error("last_not_assistant", &message, "end the conversation with the answer that is to be learned");
        }
    }

    /// A system message outside the list and one inside may not say different things.
    fn check_system(
        &self,
        row: &Json<'_>,
        messages: &[Json<'_>],
        roles: &[Option<Role>],
        problems: &mut Vec<RowProblem>,
    ) {
        let Some(outside) = row.get(self.system).and_then(Json::as_str) else { return };
        let inside = messages.first().filter(|_| roles.first() == Some(&Some(Role::System)));
        let inside = inside.and_then(|message| message.get(self.content)).and_then(Json::as_str);
        if inside.is_some_and(|inside| inside != outside) {
            let message =
                format!("{:?} and the system message of {:?} say different things", self.system, self.messages);
            problems.push(RowProblem::error("system_conflict", message, "keep one of the two"));
        }
    }
}
