//! `/metrics`: the sources' figures as Prometheus text. A figure that is not known now is left out: what a source that fails said
//! before is no figure of now.

use crate::hub::{Reading, Source};
use serde_json::Value;
use std::fmt::Write;

pub(crate) fn text(readings: &[(&Source, Reading)]) -> String {
    let mut out = String::new();
    let data = |source: &str, pointer: &str| -> Option<Value> {
        let (_, reading) = readings.iter().find(|(s, _)| s.name == source)?;
        match (&reading.error, pointer) {
            // Its server is asked: that it does not answer is the figure.
            (Some(_), "/reachable") => Some(Value::Bool(false)),
            (Some(_), _) => None,
            (None, _) => reading.data.as_ref()?.pointer(pointer).cloned(),
        }
    };
    let gauges: [(&str, &str, &str, &str); 13] = [
        ("hone_daemon_up", "1 while the daemon runs.", "training_status", "/daemon/alive"),
        ("hone_training_step", "Optimizer step of the workspace.", "training_status", "/progress/step"),
        ("hone_training_loss", "Mean loss per trained token of the last step.", "training_status", "/progress/loss"),
        ("hone_training_learning_rate", "Of the last step.", "training_status", "/progress/learning_rate"),
        ("hone_training_tokens_per_second", "Smoothed.", "training_status", "/progress/tokens_per_s"),
        ("hone_queue_open_jobs", "Jobs that are queued or running.", "queue", "/num_open"),
        ("hone_datasets_rejected", "Files that a gate refused.", "datasets", "/counts/rejected"),
        ("hone_checkpoints", "Published checkpoints.", "checkpoints", "/num_published"),
        ("hone_champion_step", "Step of the champion.", "checkpoints", "/champion_number"),
        ("hone_inference_up", "1 while the inference server answers.", "inference", "/reachable"),
        ("hone_memory_available_bytes", "Of this host.", "system", "/memory/available_bytes"),
        ("hone_disk_available_bytes", "Where the workspace lies.", "system", "/disk/available_bytes"),
        ("hone_cpu_busy_ratio", "Of all cores, since the last reading.", "system", "/cpu/busy"),
    ];
    for (name, help, source, pointer) in gauges {
        let number = match data(source, pointer) {
            Some(Value::Bool(flag)) => Some(f64::from(u8::from(flag))),
            Some(value) => value.as_f64(),
            None => None,
        };
        if let Some(number) = number {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {number}");
        }
    }
    skills(&mut out, data("skill_metrics", "/skills"), data("curriculum", "/skills"));
    let _ = writeln!(out, "# HELP hone_source_up 1 when the source could be read.\n# TYPE hone_source_up gauge");
    for (source, reading) in readings {
        let _ = writeln!(out, "hone_source_up{{source=\"{}\"}} {}", source.name, u8::from(reading.error.is_none()));
    }
    out
}

/// Level and accuracy of each skill. Its name is one of the configuration, which may hold any text.
fn skills(out: &mut String, metrics: Option<Value>, standings: Option<Value>) {
    let list = |value: Option<Value>| value.and_then(|value| value.as_array().cloned()).unwrap_or_default();
    let name = |skill: &Value| skill["skill"].as_str().unwrap_or_default().replace(['\\', '"', '\n'], "_");
    let (metrics, standings) = (list(metrics), list(standings));
    if standings.is_empty() {
        return;
    }
    let _ =
        writeln!(out, "# HELP hone_skill_level The level that the model has reached.\n# TYPE hone_skill_level gauge");
    for skill in &standings {
        let _ = writeln!(out, "hone_skill_level{{skill=\"{}\"}} {}", name(skill), skill["level"]);
    }
    let help = "Share of right answers in the newest evaluation on fresh questions.";
    let _ = writeln!(out, "# HELP hone_skill_accuracy {help}\n# TYPE hone_skill_accuracy gauge");
    for skill in &metrics {
        for level in skill["levels"].as_array().into_iter().flatten().filter(|level| level["latest"].is_number()) {
            let (skill, number, latest) = (name(skill), &level["level"], &level["latest"]);
            let _ = writeln!(out, "hone_skill_accuracy{{skill=\"{skill}\",level=\"{number}\"}} {latest}");
        }
    }
}
