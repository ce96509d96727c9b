//! `syllo_v1`: conversations that solve a SYLLO puzzle. The puzzle stands in `metadata`, as the skill writes it:
//! `{"skill": "syllo", "level": 1, "words": [{"ans_num": 1, "definition": "…", "answer": "tiger", "syllables":
//! ["ti", "ger"]}], "tiles": ["ger", "ti"]}`. The last answer must solve it: it uses tiles of the bank, each at most
//! once, they spell the words, and the words answer the slots.

use super::{Column, Conversation, Holds, Mapping, Role, RowRule, Spec};

pub(super) static SPEC: Spec = Spec {
    id: "syllo_v1",
    row: r#"{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "{\"solutions\": […]}"}], "metadata": {"words": […], "tiles": […]}}"#,
    columns: &[
        Column { name: "messages", required: true, holds: Holds::Messages },
        Column { name: "system_prompt", required: false, holds: Holds::Text },
        Column { name: "tags", required: false, holds: Holds::Anything },
        Column { name: "difficulty", required: false, holds: Holds::Anything },
        Column { name: "metadata", required: true, holds: Holds::Anything },
    ],
    job_keys: &[],
    metadata_keys: &[],
    mapping: Mapping::Conversation(Conversation {
        messages: "messages",
        role: "role",
        content: "content",
        roles: &[("system", Role::System), ("user", Role::User), ("assistant", Role::Assistant)],
        other_keys: &["reasoning_content", "thinking", "reasoning"],
        system: "system_prompt",
        tools: None,
    }),
    rule: Some(RowRule::SylloSolved),
};
