//! From checked values to the settings of the daemon and of training.

use super::{Problem, Serve, Skill, Values, read};
use anyhow::{Context, Result, bail, ensure};
use hone_daemon::Housekeeping;
use hone_pipeline::config::{
    KeepBack, LoraSettings, LrSchedule, OnRegression, Overlong, ProfileSettings, PromotionPolicy, Retention,
    ScoreWeights, Settings, SuiteMargins, Target, TrainSettings, Transport,
};
use hone_pipeline::content::ContentSettings;
use hone_pipeline::curriculum::CurriculumSettings;
use hone_pipeline::finding::Level;
use hone_store::retention::Rest;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::PathBuf;

pub(super) fn settings(values: &Values, serve: &Serve) -> Result<Settings, Vec<Problem>> {
    let ms = |path: &str| u64::try_from(values.seconds(path).as_millis()).unwrap_or(u64::MAX);
    let train = train_settings(values);
    let profile = hone_data::profile::find(&train.profile).err().map(|error| {
        let (place, key) = ("config.json".to_string(), "profile".to_string());
        vec![Problem { place, key, message: error.to_string() }]
    });
    let (suite_margins, targets) = match (suite_margins(values), targets(values, serve), profile) {
        (Ok(margins), Ok(targets), None) => (margins, targets),
        (margins, targets, profile) => {
            return Err([margins.err(), targets.err(), profile].into_iter().flatten().flatten().collect());
        }
    };
    Ok(Settings {
        train,
        validation_level: values.get::<Level>("validation.level"),
        deep_in_background: values.get("validation.deep_in_background"),
        promotion_policy: values.get::<PromotionPolicy>("promotion.policy"),
        min_gain: values.get("promotion.min_gain"),
        max_regression: values.get("promotion.max_regression"),
        min_answer_gain: values.get("promotion.min_answer_gain"),
        max_answer_regression: values.get("promotion.max_answer_regression"),
        suite_margins,
        error_budget: values.get("promotion.error_budget"),
        on_regression: values.get::<OnRegression>("promotion.on_regression"),
        alert_after: values.get("promotion.alert_after"),
        max_errored_share: values.get("evaluation.max_errored_share"),
        max_unusable_share: values.get("evaluation.max_unusable_share"),
        score_weights: ScoreWeights {
            loss: values.get("promotion.weight_loss"),
            token_accuracy: values.get("promotion.weight_token_accuracy"),
            answers: values.get("promotion.weight_answers"),
        },
        evaluation_max_ms: values.get::<u64>("evaluation.max_minutes") * 60_000,
        lease_ms: ms("limits.lease_sec"),
        max_tries: values.get("limits.max_tries"),
        retry_backoff_ms: ms("limits.retry_backoff_sec"),
        targets,
        watch_ms: ms("deployment.watch_sec"),
        max_checks: values.get("limits.max_checks"),
        max_queued_jobs: values.get("queue.max_jobs"),
        min_rows: values.get("queue.min_rows"),
        replay_share: values.get("replay.share"),
        replay_max_datasets: values.get("replay.max_datasets"),
        keep_back: KeepBack {
            share: values.get("validation.auto_share"),
            max_rows: values.get("validation.auto_max_rows"),
        },
        keep_back_files: values.get("validation.auto_files"),
        keep_back_min_rows: values.get("validation.auto_min_rows"),
        min_free_bytes: gigabytes(values, "limits.min_free_gb"),
        retention: Retention {
            keep_ms: scaled(values, "retention.keep_hours", MS_PER_HOUR),
            max_total_bytes: gigabytes(values, "retention.max_total_gb"),
            min_age_ms: scaled(values, "retention.min_age_min", 60_000.0),
            keep_resume: values.get("retention.keep_resume"),
            keep_datasets_ms: scaled(values, "retention.datasets_days", 24.0 * MS_PER_HOUR),
        },
        curriculum: curriculum_settings(values),
    })
}

pub(super) fn housekeeping(values: &Values) -> Housekeeping {
    let days = |path: &str| scaled(values, path, 24.0 * MS_PER_HOUR);
    Housekeeping {
        every_ms: scaled(values, "limits.housekeeping_sec", 1_000.0),
        max_ms: scaled(values, "limits.housekeeping_max_sec", 1_000.0),
        snapshot_at_min: values.get::<Option<String>>("snapshot_time").and_then(|time| read::minute_of(&time)),
        rest: Rest {
            rejected_ms: days("retention.rejected_days"),
            runs_ms: days("retention.runs_days"),
            logs_ms: days("retention.logs_days"),
            keep_snapshots: values.get("retention.keep_snapshots"),
        },
    }
}

const MS_PER_HOUR: f64 = 3_600_000.0;

/// A number times its unit, as a whole number; far beyond any value that the table allows it would saturate.
fn scaled(values: &Values, path: &str, unit: f64) -> u64 {
    (values.get::<f64>(path) * unit).round() as u64
}

fn gigabytes(values: &Values, path: &str) -> u64 {
    scaled(values, path, 1e9)
}

fn suite_margins(values: &Values) -> Result<BTreeMap<String, SuiteMargins>, Vec<Problem>> {
    let rows: Map<String, Value> = values.get("promotion.suites");
    let (mut margins, mut problems) = (BTreeMap::new(), Vec::new());
    for (index, (suite, row)) in rows.into_iter().enumerate() {
        match serde_json::from_value::<SuiteMargins>(row) {
            Ok(read)
                if [read.min_gain, read.max_regression]
                    .into_iter()
                    .flatten()
                    .all(|margin| (0.0..=100.0).contains(&margin)) =>
            {
                margins.insert(suite, read);
            }
            Ok(_) => {
                let message = "a margin lies from 0 to 100".to_string();
                problems.push(values.problem_inside("promotion.suites", (index, &format!(".{suite}")), message));
            }
            Err(error) => {
                let message = format!("{error}; allowed: {{\"min_gain\": NUMBER, \"max_regression\": NUMBER}}");
                problems.push(values.problem_inside("promotion.suites", (index, &format!(".{suite}")), message));
            }
        }
    }
    if problems.is_empty() { Ok(margins) } else { Err(problems) }
}

/// Values that are each allowed and do not go together.
pub(super) fn contradictions(values: &Values) -> Vec<Problem> {
    let mut problems = Vec::new();
    let ordered = [
        ("curriculum.demote_below", "curriculum.promote_at"),
        ("limits.min_trained_share", "limits.max_trained_share"),
        ("queue.settle_sec", "queue.torn_sec"),
    ];
    for (low, high) in ordered {
        let (least, most) = (values.get::<f64>(low), values.get::<f64>(high));
        if least > most {
            problems.push(values.problem(low, format!("found {least}; allowed: at most {high}, which is {most}")));
        }
    }
    if values.get::<u64>("lora.rank") > 0 && !values.get::<Vec<String>>("freeze").is_empty() {
        problems.push(values.problem("freeze", "no use beside `lora.rank`: LoRA freezes the whole model".to_string()));
    }
    let skills: Vec<Skill> = values.get("skills");
    for (index, skill) in skills.iter().enumerate() {
        let mut fault =
            |message| problems.push(values.problem_inside("skills", (index, &format!("[{index}]")), message));
        if skills[..index].iter().any(|other| other.name == skill.name) {
            fault(format!("the name {:?} stands twice", skill.name));
        }
        if !is_url(&skill.url) {
            fault(format!("url: found {:?}; allowed: http://… or https://…", skill.url));
        }
    }
    let hook: Option<String> = values.get("alerts.url");
    if let Some(url) = hook.filter(|url| !is_url(url)) {
        problems.push(values.problem("alerts.url", format!("found {url:?}; allowed: http://… or https://…")));
    }
    problems
}

/// Whether a text is the address of a server: `http://…` or `https://…`.
#[must_use]
pub fn is_url(text: &str) -> bool {
    ["http://", "https://"].iter().any(|scheme| text.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()))
}

/// Rows of a step, before accumulation, when `batch_size` is "auto".
const AUTO_BATCH_ROWS: usize = 8;

/// None when the model itself is trained.
fn lora_settings(values: &Values) -> Option<LoraSettings> {
    let rank = values.get("lora.rank");
    (rank > 0).then(|| LoraSettings {
        rank,
        alpha: values.get("lora.alpha"),
        dropout: values.get("lora.dropout"),
        targets: values.get("lora.targets"),
    })
}

fn curriculum_settings(values: &Values) -> CurriculumSettings {
    CurriculumSettings {
        enabled: values.get("curriculum.enabled"),
        skills: values.get::<Vec<Skill>>("skills").into_iter().map(|skill| skill.name).collect(),
        eval_samples: values.get("curriculum.eval_samples"),
        window: values.get("curriculum.window"),
        promote_at: values.get("curriculum.promote_at"),
        demote_below: values.get("curriculum.demote_below"),
        max_cut_share: values.get("curriculum.max_cut_share"),
        max_unparsed_share: values.get("curriculum.max_unparsed_share"),
    }
}

pub(super) fn content_settings(values: &Values) -> ContentSettings {
    ContentSettings {
        min_answer_chars: values.get("validation.min_answer_chars"),
        near_duplicate_similarity: values.get("validation.near_duplicate_similarity"),
        overlap_words: values.get("validation.overlap_words"),
        overlap_coverage: values.get("validation.overlap_coverage"),
        max_duplicate_share: values.get("validation.max_duplicate_share"),
        max_leak_share: values.get("validation.max_leak_share"),
        max_overlap_share: values.get("validation.max_overlap_share"),
        max_label_share: values.get("validation.max_label_share"),
        max_shift: values.get("validation.max_shift"),
        max_compare_bytes: values.get("validation.max_compare_bytes"),
    }
}

fn profile_settings(values: &Values) -> ProfileSettings {
    ProfileSettings { name: values.get("profile.name"), system_prompt: values.get("profile.system_prompt") }
}

fn train_settings(values: &Values) -> TrainSettings {
    let bytes = |path: &str| (values.get::<f64>(path) * 1e9) as u64;
    let batch_size = values.get::<Value>("batch_size").as_u64().map(|rows| rows as usize);
    TrainSettings {
        batch_size: batch_size.unwrap_or(AUTO_BATCH_ROWS),
        auto_batch: batch_size.is_none(),
        micro_batch: 0,
        lora: lora_settings(values),
        freeze: values.get("freeze"),
        recompute: values.get("recompute"),
        max_shard_bytes: bytes("max_shard_gb"),
        max_memory_bytes: bytes("limits.max_memory_gb"),
        gradient_accumulation: values.get("gradient_accumulation"),
        learning_rate: values.get("learning_rate"),
        max_length: values.get("max_length"),
        overlong: values.get::<Overlong>("overlong"),
        epochs: values.get("epochs"),
        save_steps: values.get("save_steps"),
        preview_steps: values.get("preview_steps"),
        warmup_steps: values.get("warmup_steps"),
        lr_schedule: values.get::<LrSchedule>("lr_schedule"),
        weight_decay: values.get("weight_decay"),
        max_grad_norm: values.get("max_grad_norm"),
        seed: values.get("seed"),
        profile: profile_settings(values),
        chat_template_kwargs: values.get::<Map<String, Value>>("chat_template_kwargs"),
        min_trained_share: values.get("limits.min_trained_share"),
        max_trained_share: values.get("limits.max_trained_share"),
        threads: values.get("threads"),
        device: values.get("device"),
    }
}

/// With no target configured, checkpoints go to this host's own server.
fn targets(values: &Values, serve: &Serve) -> Result<Vec<Target>, Vec<Problem>> {
    let rows: Vec<Map<String, Value>> = values.get("deployment.targets");
    if rows.is_empty() {
        let transport = Transport::Local { serve_root: PathBuf::from("serve") };
        return Ok(vec![Target { name: "local".to_string(), url: format!("http://{}", serve.listen), transport }]);
    }
    let fault = |index: usize, message: String| {
        values.problem_inside("deployment.targets", (index, &format!("[{index}]")), message)
    };
    let mut problems = Vec::new();
    let mut targets: Vec<Target> = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        match target(row) {
            Ok(target) if targets.iter().any(|t| t.name == target.name) => {
                problems.push(fault(index, format!("the name {:?} stands twice", target.name)));
            }
            Ok(target) => targets.push(target),
            Err(error) => problems.push(fault(index, format!("{error:#}"))),
        }
    }
    if problems.is_empty() { Ok(targets) } else { Err(problems) }
}

fn target(row: &Map<String, Value>) -> Result<Target> {
    let text = |key: &str| row.get(key).and_then(Value::as_str).unwrap_or_default().to_string();
    let optional = |key: &str| row.get(key).and_then(Value::as_str).map(str::to_string);
    let required = |key: &str| optional(key).with_context(|| format!("the transport needs `{key}`"));
    let transport = match text("transport").as_str() {
        "http" => Transport::Http,
        "rsync" => Transport::Rsync { destination: required("destination")?, rsh: optional("rsh") },
        "command" => Transport::Command {
            stage: required("stage")?,
            switch: required("switch")?,
            verify: required("verify")?,
            rollback: optional("rollback"),
        },
        "local" | "" => {
            let serve_root = if row.contains_key("serve_root") { text("serve_root") } else { "serve".to_string() };
            Transport::Local { serve_root: PathBuf::from(serve_root) }
        }
        other => bail!("the transport {other:?} is unknown (allowed: \"local\", \"http\", \"rsync\", \"command\")"),
    };
    let url = text("url").trim_end_matches('/').to_string();
    let is_anything = matches!(transport, Transport::Command { .. });
    ensure!(is_anything || is_url(&url), "the url {url:?} begins neither with http:// nor with https://");
    Ok(Target { name: text("name"), url, transport })
}
