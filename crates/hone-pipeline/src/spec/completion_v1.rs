//! `completion_v1`: plain text, or a prompt and its completion of which only the completion is trained.

use super::{Column, Holds, Mapping, Spec};

pub(super) static SPEC: Spec = Spec {
    id: "completion_v1",
    row: r#"{"text": "…"} or {"prompt": "…", "completion": "…"}"#,
    columns: &[
        Column { name: "text", required: false, holds: Holds::Text },
        Column { name: "prompt", required: false, holds: Holds::Text },
        Column { name: "completion", required: false, holds: Holds::Text },
        Column { name: "tags", required: false, holds: Holds::Anything },
        Column { name: "difficulty", required: false, holds: Holds::Anything },
        Column { name: "metadata", required: false, holds: Holds::Anything },
    ],
    job_keys: &[],
    metadata_keys: &[],
    mapping: Mapping::Completion { text: "text", prompt: "prompt", completion: "completion" },
    rule: None,
};
