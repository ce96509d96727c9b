//! `chat_sft_v1`: conversations; every assistant turn is trained.

use super::{Column, Conversation, Holds, Mapping, Role, Spec};

pub(super) static SPEC: Spec = Spec {
    id: "chat_sft_v1",
    row: r#"{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}"#,
    columns: &[
        Column { name: "messages", required: true, holds: Holds::Messages },
        Column { name: "system_prompt", required: false, holds: Holds::Text },
        Column { name: "tools", required: false, holds: Holds::Tools },
        Column { name: "tags", required: false, holds: Holds::Anything },
        Column { name: "difficulty", required: false, holds: Holds::Anything },
        Column { name: "metadata", required: false, holds: Holds::Anything },
    ],
    job_keys: &[],
    metadata_keys: &[],
    mapping: Mapping::Conversation(Conversation {
        messages: "messages",
        role: "role",
        content: "content",
        roles: &[("system", Role::System), ("user", Role::User), ("assistant", Role::Assistant), ("tool", Role::Tool)],
        other_keys: &["name", "tool_calls", "tool_call_id", "reasoning_content", "thinking", "reasoning"],
        system: "system_prompt",
        tools: Some("tools"),
    }),
    rule: None,
};
