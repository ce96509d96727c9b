//! `regime3`: problems are written as `(op arg1 arg2)`, and the final answer stands between two markers.

use super::{Profile, is_answer, set_system};
use crate::example::{Message, RowId};

const START: &str = "<<ANS_START>>";
const END: &str = "<<ANS_END>>";
/// What the system message asks for.
const SYSTEM: &str = "Write each problem in canonical form, (op arg1 arg2). Put the final answer, and nothing else, \
                      between <<ANS_START>> and <<ANS_END>>.";
/// Part of the fingerprint; to be raised when the profile changes.
const VERSION: &str = "regime3 1";

/// The profile.
#[derive(Clone, Debug)]
pub(super) struct Regime3 {
    /// The system message of every row; none: what the profile asks for, below the row's own.
    pub system: Option<String>,
}

impl Profile for Regime3 {
    fn name(&self) -> &'static str {
        "regime3"
    }

    fn decorate(&self, _: RowId, messages: &mut Vec<Message>) {
        match (&self.system, messages.first().filter(|first| first.role == "system")) {
            (Some(system), _) => set_system(messages, system),
            (None, None) => set_system(messages, SYSTEM),
            (None, Some(own)) if own.content.contains(SYSTEM) => {}
            (None, Some(own)) => {
                let both = format!("{}\n\n{SYSTEM}", own.content);
                set_system(messages, &both);
            }
        }
        for message in messages.iter_mut().filter(|message| is_answer(message)) {
            message.content = mark(&message.content);
        }
    }

    /// What stands between the last start and the end behind it. A response without any marker has no final answer.
    fn extract(&self, response: &str) -> String {
        let inside = match (response.rfind(START), response.find(END)) {
            (Some(start), _) => {
                let rest = &response[start + START.len()..];
                rest.split_once(END).map_or(rest, |(inside, _)| inside)
            }
            (None, Some(end)) => &response[..end],
            (None, None) => "",
        };
        let inside = inside.strip_prefix(' ').unwrap_or(inside);
        inside.strip_suffix(' ').unwrap_or(inside).to_string()
    }

    fn may_refuse(&self) -> bool {
        true
    }

    fn problem(&self, answer: &str) -> Option<String> {
        for marker in [START, END] {
            let count = answer.matches(marker).count();
            if count > 1 {
                return Some(format!("an answer holds {marker} {count} times"));
            }
        }
        match (answer.find(START), answer.find(END)) {
            (Some(start), Some(end)) if end < start => Some(format!("an answer holds {END} before {START}")),
            _ => None,
        }
    }

    fn fingerprint(&self) -> String {
        format!("{VERSION} {:?}", self.system)
    }
}

/// The answer between both markers; one that is missing is added.
fn mark(answer: &str) -> String {
    let before = if answer.contains(START) { String::new() } else { format!("{START} ") };
    let behind = if answer.contains(END) { String::new() } else { format!(" {END}") };
    format!("{before}{answer}{behind}")
}
