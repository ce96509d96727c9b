//! `sharegpt_v1`: conversations in the shape of ShareGPT exports, mapped to messages.

use super::{Column, Conversation, Holds, Mapping, Role, Spec};

pub(super) static SPEC: Spec = Spec {
    id: "sharegpt_v1",
    row: r#"{"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}]}"#,
    columns: &[
        Column { name: "conversations", required: true, holds: Holds::Messages },
        Column { name: "system", required: false, holds: Holds::Text },
        Column { name: "id", required: false, holds: Holds::Anything },
        Column { name: "metadata", required: false, holds: Holds::Anything },
    ],
    job_keys: &[],
    metadata_keys: &[],
    mapping: Mapping::Conversation(Conversation {
        messages: "conversations",
        role: "from",
        content: "value",
        roles: &[
            ("system", Role::System),
            ("human", Role::User),
            ("user", Role::User),
            ("gpt", Role::Assistant),
            ("chatgpt", Role::Assistant),
            ("assistant", Role::Assistant),
            ("tool", Role::Tool),
            ("observation", Role::Tool),
        ],
        other_keys: &[],
        system: "system",
        tools: None,
    }),
    rule: None,
};
