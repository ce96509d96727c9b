//! `alpaca_v1`: instruction, optional input, output; mapped to one user and one assistant message. The input
//! stands below the instruction, after an empty line.

use super::{Column, Holds, Mapping, Spec};

pub(super) static SPEC: Spec = Spec {
    id: "alpaca_v1",
    row: r#"{"instruction": "…", "input": "…", "output": "…"}"#,
    columns: &[
        Column { name: "instruction", required: true, holds: Holds::Text },
        Column { name: "input", required: false, holds: Holds::Text },
        Column { name: "output", required: true, holds: Holds::Text },
        Column { name: "system", required: false, holds: Holds::Text },
        Column { name: "metadata", required: false, holds: Holds::Anything },
    ],
    job_keys: &[],
    metadata_keys: &[],
    mapping: Mapping::Instruction { instruction: "instruction", input: "input", output: "output", system: "system" },
    rule: None,
};
