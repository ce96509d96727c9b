//! Stored forms of settings.

use super::*;
use serde_json::{Value, json};

/// Jobs, requests and lineages that were stored before profiles had settings hold the name alone.
#[test]
fn a_profile_is_written_as_its_name_where_nothing_else_is_configured() {
    let system_prompt = Some("Be brief.".to_string());
    let cases = [
        (ProfileSettings::default(), json!("plain")),
        (ProfileSettings::named("regime3"), json!("regime3")),
        (
            ProfileSettings { name: "emoji_think".to_string(), system_prompt },
            json!({"name": "emoji_think", "system_prompt": "Be brief."}),
        ),
    ];
    for (settings, written) in cases {
        assert_eq!(serde_json::to_value(&settings).unwrap(), written);
        assert_eq!(serde_json::from_value::<ProfileSettings>(written).unwrap(), settings);
    }
    let mut stored = serde_json::to_value(TrainSettings::default()).unwrap();
    assert_eq!(stored["profile"], json!("plain"));
    stored["profile"] = Value::Null;
    assert!(serde_json::from_value::<TrainSettings>(stored).is_err(), "nothing falls back silently");
}
