//! The table of all configuration keys: path, type, range, default, meaning. Adding a key is one entry here and
//! one line where it is used.

use serde_json::Value;

/// The type of a key and the values that it allows.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number.
    Int {
        /// Smallest.
        min: u64,
        /// Largest.
        max: u64,
    },
    /// A whole number, or `"auto"`.
    IntOrAuto {
        /// Smallest.
        min: u64,
        /// Largest.
        max: u64,
    },
    /// A number.
    Float {
        /// Smallest.
        min: f64,
        /// Largest.
        max: f64,
    },
    /// Any text that is not empty.
    Text,
    /// A text, or `null`.
    OptionalText,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// `host:port` with a numeric host.
    Address,
    /// A list of texts.
    Texts,
    /// `HH:MM` in UTC, or `null`.
    TimeOfDay,
    /// An object with any content.
    Object,
    /// A list of words out of these; a word that ends in `:` allows any suffix.
    Words(&'static [&'static str]),
    /// A list of objects with these fields.
    Records(&'static [Field]),
}

/// A field of the objects of a list.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Whether it must be there.
    pub required: bool,
    /// Type and range.
    pub kind: Kind,
}

/// One configuration key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Dotted path.
    pub path: &'static str,
    /// Type and range.
    pub kind: Kind,
    /// Default, as JSON.
    pub default: &'static str,
    /// What it is, with its unit.
    pub doc: &'static str,
}

impl Key {
    /// The default as a value.
    #[must_use]
    pub fn default_value(&self) -> Value {
        serde_json::from_str(self.default).expect("defaults of the table are JSON")
    }
}

const fn key(path: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Key {
    Key { path, kind, default, doc }
}

const fn required(name: &'static str) -> Field {
    Field { name, required: true, kind: Kind::Text }
}

const fn optional(name: &'static str, kind: Kind) -> Field {
    Field { name, required: false, kind }
}

const fn int(min: u64, max: u64) -> Kind {
    Kind::Int { min, max }
}

const fn float(min: f64, max: f64) -> Kind {
    Kind::Float { min, max }
}

/// All keys, grouped as people look for them.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key("model_name", Kind::Text, "\"hone-model\"", "The name that clients ask for and that the server tells; it need not match the path."),
    key("model_path", Kind::OptionalText, "null", "Folder of the base model (Hugging Face format); `hone init --model` writes it. Locked at the first step of a lineage."),
    key("schema_id", Kind::Choice(SCHEMAS), "\"chat_sft_v1\"", "Schema of files that name none themselves."),
    key("profile.name", Kind::Choice(hone_data::profile::NAMES), "\"plain\"", "The data profile, applied alike in training, preview, evaluation and serving (docs/profiles.md)."),
    key("profile.system_prompt", Kind::OptionalText, "null", "The system message of every row and prompt under `emoji_think` (null: each keeps its own) and `regime3` (null: what the profile asks for)."),
    key("chat_template_kwargs", Kind::Object, "{}", "Extra variables of the chat template, e.g. {\"enable_thinking\": false}."),
    key("batch_size", Kind::IntOrAuto { min: 1, max: 65_536 }, "8", "Rows per micro-batch. Rows are packed without padding. \"auto\": a step has 8 rows times `gradient_accumulation`, cut into the largest micro-batches that fit into memory."),
    key("gradient_accumulation", int(1, 65_536), "1", "Micro-batches per optimizer step."),
    key("learning_rate", float(1e-9, 1.0), "2e-5", "Peak learning rate."),
    key("lr_schedule", Kind::Choice(&["constant", "cosine", "linear", "warmup_stable_decay"]), "\"constant\"", "Learning-rate schedule; its horizon is the job."),
    key("warmup_steps", int(0, 1_000_000), "0", "Optimizer steps of linear warm-up at the start of a job."),
    key("max_length", int(8, 1_048_576), "1024", "Longest row in tokens."),
    key("overlong", Kind::Choice(&["skip", "reject", "truncate_prompt"]), "\"skip\"", "What happens to longer rows; an answer is never cut."),
    key("epochs", int(1, 10_000), "1", "Passes over the rows of each job."),
    key("save_steps", int(1, 1_000_000), "100", "Optimizer steps between checkpoints; each is evaluated and compared."),
    key("preview_steps", int(0, 1_000_000), "50", "Optimizer steps between previews (greedy answers to validation prompts); 0 = none."),
    key("weight_decay", float(0.0, 10.0), "0.01", "Decoupled weight decay, on tensors of two or more dimensions."),
    key("max_grad_norm", float(0.0, 1e9), "1.0", "Gradient norm above which gradients are scaled down; 0 = never."),
    key("seed", int(0, u64::MAX), "42", "Seed of the order of rows."),
    key("device", Kind::Choice(&["auto", "cpu", "cuda", "cuda-f32", "reference"]), "\"auto\"", "Where training, evaluation and serving compute. `auto` is `cuda` where the driver of an NVIDIA GPU is installed, else `cpu`; `cuda` computes products in bf16 with f32 masters, `cuda-f32` all in f32; `reference` is the slow plain twin for checks."),
    key("threads", int(0, 1024), "0", "Threads of the training engine; 0 = all cores. The same number gives the same bits."),
    key("recompute", Kind::Bool, "false", "Compute layers again in the backward pass in place of keeping their activations: less memory, about a third more time, the same numbers."),
    key("freeze", Kind::Texts, "[]", "Parameters that are not trained: names, or patterns such as \"model.layers.0.*\" or \"*norm.weight\" (full fine-tuning only)."),
    key("max_shard_gb", float(0.0, 1e6), "5", "Weights above so many gigabytes are written as several files with an index; 0 = one file."),
    key("lora.rank", int(0, 65_536), "0", "Rank of the adapters; 0 = full fine-tuning. A change between LoRA and full fine-tuning starts new optimizer state."),
    key("lora.alpha", float(1e-6, 1e6), "32", "The adapters' output is multiplied by alpha / rank."),
    key("lora.dropout", float(0.0, 0.99), "0", "Share of the adapters' inputs that training leaves out."),
    key("lora.targets", Kind::Words(&["all-linear", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]), "[\"all-linear\"]", "Products that get an adapter, as `peft` names them; \"all-linear\" alone means all seven."),
    key("auto_generate.enabled", Kind::Bool, "false", "Ask skill servers for data when the queue runs dry."),
    key("auto_generate.count", int(1, hone_skills::MAX_COUNT as u64), "500", "Samples per generated file; hone's own skills give no more of one level at once."),
    key("auto_generate.threshold", int(0, 1000), "0", "Generate only while at most this many jobs are open."),
    key("auto_generate.cooldown_sec", float(0.0, 1e7), "60", "Seconds between two generated files."),
    key("auto_generate.priority", Kind::Choice(&["high", "normal", "low"]), "\"normal\"", "Priority of generated files."),
    key("auto_generate.replay_share", float(0.0, 1.0), "0.1", "Share of the samples that come from the levels below that of now."),
    key("auto_generate.steps", Kind::Bool, "false", "Ask for worked steps before the answers, of skills that have them (Binary). Give `evaluation.max_answer_tokens` room for them."),
    key("auto_generate.order", Kind::Choice(&["round_robin", "weakest_first"]), "\"round_robin\"", "Which skill is asked next."),
    key("curriculum.enabled", Kind::Bool, "true", "Each evaluation asks the model fresh questions of every configured skill, and levels follow the answers."),
    key("curriculum.eval_samples", int(1, 10_000), "300", "Fresh questions of one evaluation; one with fewer verdicts moves no level."),
    key("curriculum.window", int(1, 100), "3", "Evaluations, of different checkpoints, that decide together."),
    key("curriculum.promote_at", float(0.0, 1.0), "0.8", "Average accuracy for the next level, where the skill's level names none."),
    key("curriculum.demote_below", float(0.0, 1.0), "0.5", "Average accuracy below which the level before is trained again."),
    key("curriculum.max_cut_share", float(0.0, 1.0), "0.1", "Share of answers cut by the token limit above which an evaluation moves no level."),
    key("curriculum.max_unparsed_share", float(0.0, 1.0), "0.1", "Share of unparsable answers above which an evaluation does not count for the next level."),
    key("skills", Kind::Records(SKILL_FIELDS), "[]", "Skill servers: [{\"name\": \"binary\", \"url\": \"http://127.0.0.1:8090\"}]. The other fields are bounds of the samples that it generates, and whether it is asked for any (docs/skills.md)."),
    key("roles", Kind::Words(&["daemon", "monitor", "serve", "skill:"]), "[\"daemon\", \"monitor\", \"serve\"]", "What `hone up` runs on this host; `skill:NAME` runs a skill server of hone."),
    key("validation.level", Kind::Choice(&["quick", "standard", "deep"]), "\"standard\"", "Content-check level before queueing."),
    key("validation.deep_in_background", Kind::Bool, "true", "Check accepted files at `deep` as well, one at a time and with low priority, while they wait or are trained."),
    key("validation.max_line_bytes", int(1024, 1 << 40), "104857600", "Longest accepted line in bytes."),
    key("validation.max_file_bytes", int(1024, 1 << 50), "10737418240", "Largest accepted file in bytes."),
    key("validation.max_unpacked_bytes", int(1024, 1 << 50), "10737418240", "Most bytes that a packed file (gzip, zstd, Parquet) may unpack to; a bomb is refused by this name."),
    key("validation.min_answer_chars", int(1, 1_000_000), "24", "Deep: a shorter answer is never called leaked."),
    key("validation.near_duplicate_similarity", float(0.1, 1.0), "0.8", "Deep: share of common five-word shingles (Jaccard) from which on two rows are near-duplicates."),
    key("validation.overlap_words", int(8, 1000), "13", "Deep: words in a row that a row and a validation text must share before an overlap is looked at."),
    key("validation.overlap_coverage", float(0.01, 1.0), "0.8", "Deep: share of a validation text's distinctive word runs that must stand in a row."),
    key("validation.max_duplicate_share", float(0.0, 1.0), "1.0", "Standard: a file with more exact duplicates is rejected; 1 = it is only told."),
    key("validation.max_leak_share", float(0.0, 1.0), "0.2", "Deep: a file is rejected when more of its prompts hold their answer."),
    key("validation.max_overlap_share", float(0.0, 1.0), "0.01", "Deep: a file is rejected when more of its rows overlap with validation data."),
    key("validation.max_label_share", float(0.0, 1.0), "0.9", "Standard: a label that more of the short answers have is told."),
    key("validation.max_shift", float(0.0, 1.0), "0.5", "Deep: a distance from earlier accepted files (roles, scripts, languages, lengths) above this is told."),
    key("validation.max_compare_bytes", int(0, 1 << 50), "2147483648", "Deep: bytes of earlier accepted files that rows are compared with, the newest first."),
    key("validation.auto_share", float(0.0, 0.5), "0.05", "Share of the rows of each accepted file that is never trained and evaluated instead, as the suite kept-back; chosen by what the rows say. Data made by a skill are trained whole: the skill's own eval split is asked."),
    key("validation.auto_max_rows", int(0, 1_000_000), "200", "At most so many rows of one file are kept back."),
    key("validation.auto_min_rows", int(0, 1_000_000), "20", "Fewer kept-back rows are not evaluated beside files in validation/: they could tell nothing and would hold every promotion."),
    key("validation.auto_files", int(1, 10_000), "4", "The suite kept-back holds the kept-back rows of so many files, the newest."),
    key("validation.max_sec", float(1.0, 1e6), "3600", "Time limit of one check in seconds."),
    key("queue.max_jobs", int(1, 10_000_000), "10000", "Queued jobs before files wait in the inbox."),
    key("queue.min_rows", int(0, 1_000_000_000), "64", "Waiting files with fewer rows share a job until it has so many (each stays a data set of its own); 0 = one job per file."),
    key("queue.scan_sec", float(0.01, 3600.0), "0.2", "Seconds between two scans of the inbox."),
    key("queue.settle_sec", float(0.0, 3600.0), "2", "A file whose size and time did not change for so many seconds is complete."),
    key("queue.torn_sec", float(0.0, 86_400.0), "60", "How long a file whose last line is torn waits for the rest, in seconds."),
    key("replay.share", float(0.0, 1.0), "0.1", "Rows of earlier accepted data sets that a job trains again, per new row, so that old skills are not forgotten; chosen by row hash, the same at every resume."),
    key("replay.max_datasets", int(1, 100_000), "32", "Earlier data sets that one job takes such rows from, at most."),
    key("evaluation.max_minutes", int(1, 10_000), "10", "Time limit of one evaluation."),
    key("evaluation.sealed_questions", int(0, 10_000), "200", "Questions of the fixed set that every checkpoint answers for each level that a skill has reached (`validation/skills/`), drawn once from the skill's `eval` split; 0 = none."),
    key("evaluation.max_answer_tokens", int(1, 1_000_000), "768", "Longest answer to a skill's question in an evaluation, in tokens; a longer one counts as cut. No right answer of hone's own skills has so many bytes, whatever the vocabulary; an event tells where one of another skill has more tokens."),
    key("evaluation.max_errored_share", float(0.0, 1.0), "0.05", "No verdict where more of a suite's answers could not be generated or checked."),
    key("evaluation.max_unusable_share", float(0.0, 1.0), "0.5", "No promotion where more of a suite's answers are cut, empty or unparsable."),
    key("promotion.policy", Kind::Choice(&["better", "not_worse", "manual"]), "\"not_worse\"", "When a checkpoint takes the champion's place: better over all suites together and worse on none; not worse on any suite and better on one; only by `hone deploy N`."),
    key("promotion.min_gain", float(0.0, 100.0), "0", "Loss (nats per token) by which a checkpoint must be lower to be called better."),
    key("promotion.max_regression", float(0.0, 100.0), "0.02", "Loss (nats per token) by which it may be higher on one suite without being called worse."),
    key("promotion.min_answer_gain", float(0.0, 1.0), "0", "Share of right answers by which a checkpoint must be higher to be called better on a suite of questions."),
    key("promotion.max_answer_regression", float(0.0, 1.0), "0.05", "Share of right answers by which it may be lower on one suite of questions without being called worse."),
    key("promotion.suites", Kind::Object, "{}", "Margins of single suites by name: {\"sums.jsonl\": {\"min_gain\": 0.01, \"max_regression\": 0.1}}."),
    key("promotion.error_budget", float(1e-6, 0.5), "0.05", "The chance, over a champion's whole tenure, that an equal or worse checkpoint is promoted; each look at a new checkpoint uses a share of what is left."),
    key("promotion.on_regression", Kind::Choice(&["hold", "rewind", "continue"]), "\"hold\"", "When a checkpoint is surely worse than the one it was trained from: training pauses and people are told; training restarts from the champion, the files of the guilty job set aside and later good ones queued again; or it is only noted."),
    key("promotion.alert_after", int(0, 1_000_000), "10", "People are told (`alerts`) when so many checkpoints in a row did not take the champion's place; 0 = never."),
    key("promotion.weight_loss", float(0.0, 1.0), "0.4", "Weight of 1/(1+loss) in the ranking score of `hone compare`; the score orders, it never promotes."),
    key("promotion.weight_token_accuracy", float(0.0, 1.0), "0.4", "Weight of the token accuracy in the ranking score."),
    key("promotion.weight_answers", float(0.0, 1.0), "0.2", "Weight of the share of right answers in the ranking score."),
    key("snapshot_time", Kind::TimeOfDay, "\"03:00\"", "When the daily snapshot of the latest checkpoint is taken (`snapshots/DAY/`, weights only); null = never."),
    key("retention.keep_hours", float(0.0, 1e6), "36", "Checkpoints older than this go, but never the base model, the latest, the champion, the best, a served one, what a rollback goes back to, a pinned one, or one that is being evaluated."),
    key("retention.max_total_gb", float(0.0, 1e9), "150", "When all checkpoints together are larger, the oldest go before their time (abandoned ones first)."),
    key("retention.min_age_min", float(0.0, 1e6), "60", "No checkpoint goes before it is so many minutes old."),
    key("retention.keep_resume", int(1, 1000), "2", "Resume states (optimizer, position) that stay."),
    key("retention.keep_snapshots", int(0, 100_000), "7", "Daily snapshots that stay; 0 = all."),
    key("retention.datasets_days", float(0.0, 1e5), "180", "Days that the rows of a data set stay after its last job ended; 0 = for ever. Reports always stay."),
    key("retention.rejected_days", float(0.0, 1e5), "30", "Days that refused files stay; 0 = for ever. Their reports always stay."),
    key("retention.runs_days", float(0.0, 1e5), "14", "Days that run folders (requests, events, metrics, raw answers) stay; 0 = for ever."),
    key("retention.logs_days", float(0.0, 1e5), "30", "Days that log files which were put aside stay; 0 = for ever."),
    key("deployment.targets", Kind::Records(TARGET_FIELDS), "[]", "Servers that checkpoints go to; none = this host's own. `transport`: \"local\" (files are linked), \"http\" (files are sent), \"rsync\" (`destination`, `rsh`) or \"command\" (`stage`, `switch`, `verify`, `rollback`); see docs/deployment.md."),
    key("deployment.watch_sec", float(0.0, 86_400.0), "60", "How long a target is watched after a switch; errors, slow answers or wrong canaries roll it back. 0 = not at all."),
    key("deployment.watch_interval_sec", float(0.05, 3600.0), "2", "Seconds between two looks."),
    key("deployment.max_answer_sec", float(0.1, 3600.0), "20", "A canary that is not answered within so many seconds counts as failed."),
    key("deployment.max_error_share", float(0.0, 1.0), "0.05", "Largest share of a target's answers after a switch that may be errors of the server (of at least five)."),
    key("deployment.canary_file", Kind::OptionalText, "null", "JSONL of questions that a target must answer after a switch: {\"messages\": […], \"expect\": \"text in the answer\"}."),
    key("deployment.min_canary_share", float(0.0, 1.0), "0.9", "Least share of canaries that must be answered as expected."),
    key("alerts.command", Kind::Texts, "[]", "A program with its arguments that is run for what people must see (errors, a `config.json` that became unreadable, held training, rollbacks, rewinds, lost workers, a role that died, no promotion in `promotion.alert_after` checkpoints); the alert is JSON on its stdin."),
    key("alerts.url", Kind::OptionalText, "null", "A webhook for the same: the alert is the body of a POST."),
    key("trainer.command", Kind::Texts, "[]", "A program with its arguments that trains instead of the built-in `train-job`, under the same contract (docs/trainer.md); it gets `--request FILE` after them."),
    key("serve.listen", Kind::Address, "\"127.0.0.1:8765\"", "Address of the OpenAI-compatible server."),
    key("serve.dtype", Kind::Choice(&["auto", "f32", "bf16", "int8"]), "\"auto\"", "How weights are held in memory; sums are always f32. `auto`: as the checkpoint stores them, which changes no answer; `int8` is rounded at load, and the server says what that costs."),
    key("serve.slots", int(1, 4096), "8", "Sequences generated at the same time."),
    key("serve.max_context", int(0, 1_048_576), "2048", "Longest prompt and answer together, in tokens; 0 = the model's own limit, or what `serve.cache_mb` holds."),
    key("serve.cache_mb", int(1, 16_777_216), "1024", "Memory for keys and values of all requests together, in MiB; a request takes what its prompt and `max_tokens` need and waits until there is room."),
    key("serve.max_memory_mb", int(0, 16_777_216), "0", "Memory that models with their caches may take together, in MiB; 0 = what the machine, its control group or its GPU has available. Without room for a second model requests wait while a deployment is switched."),
    key("serve.default_max_tokens", int(0, 1_048_576), "0", "Tokens of an answer when its request names no limit; 0 = what the context leaves."),
    key("serve.keep_deployments", int(0, 1000), "2", "Deployments kept on the server's disk beside the serving and the previous one."),
    key("serve.max_blob_mb", int(1, 16_777_216), "65536", "Largest file of a deployment that the server takes, in MiB; a larger one is answered with 413."),
    key("serve.request_timeout_sec", int(0, 86_400), "600", "How long an answer may take from the arrival of its request, in seconds; 0 = as long as it takes."),
    key("serve.stall_timeout_sec", int(1, 86_400), "60", "A connection is cut when its client takes nothing of what waits for it for so many seconds."),
    key("serve.drain_sec", int(0, 86_400), "10", "How long running answers may go on after a stop, in seconds."),
    key("serve.max_body_mb", int(1, 4096), "8", "Largest JSON body in MiB; a larger one is answered with 413."),
    key("serve.max_choices", int(1, 1024), "16", "Most answers of one request: `n` times its prompts."),
    key("serve.max_queue", int(1, 100_000), "64", "Waiting requests before new ones are answered with 429."),
    key("serve.min_free_bytes", int(0, 1 << 50), "1073741824", "Bytes of the disk that uploads of checkpoints leave free; what would not is refused before it comes."),
    key("serve.threads", int(0, 1024), "0", "Threads of the serving engine; 0 = all cores."),
    key("monitor.listen", Kind::Address, "\"127.0.0.1:8088\"", "Address of the monitor and its dashboard."),
    key("limits.lease_sec", float(1.0, 86_400.0), "60", "A worker that says nothing for so long is ended and its work taken over."),
    key("limits.max_tries", int(1, 100), "3", "Tries of a job after transient failures."),
    key("limits.retry_backoff_sec", float(0.0, 86_400.0), "1", "Wait before the second try; doubled for each further one."),
    key("limits.max_checks", int(1, 64), "1", "Files that are checked at the same time."),
    key("limits.min_free_gb", float(0.0, 1e6), "2", "Below this free room on the workspace's disk the daemon begins nothing new and says so; 0 = never."),
    key("limits.housekeeping_sec", float(1.0, 1e6), "60", "Seconds between two looks at retention."),
    key("limits.housekeeping_max_sec", float(1.0, 1e6), "300", "Time limit of one look at retention, in seconds."),
    key("limits.max_memory_gb", float(0.0, 1e6), "0", "Memory that a training run may plan for, for `batch_size` \"auto\" and `hone plan`; 0 = nine tenths of what the host has available."),
    key("limits.min_trained_share", float(0.0, 1.0), "0.005", "Training refuses to start when the share of trained tokens is below this."),
    key("limits.max_trained_share", float(0.0, 1.0), "1.0", "Training refuses to start when the share of trained tokens is above this."),
];

/// Keys of other trainers' configurations, and what says the same here.
pub const ELSEWHERE: &[(&str, &str)] = &[
    ("eval_steps", "every checkpoint is evaluated: set `save_steps`"),
    (
        "dtype",
        "set `device` for training (`cuda`: bf16 products with f32 masters; `cuda-f32` and `cpu`: all in f32) and `serve.dtype` for serving",
    ),
    ("devices", "one device trains: set `device`; `trainer.command` runs a program on several (docs/trainer.md)"),
];

/// Fields of a skill.
const SKILL_FIELDS: &[Field] = &[
    required("name"),
    required("url"),
    optional("schema_id", Kind::Choice(SCHEMAS)),
    optional("max_question_chars", int(1, 10_000_000)),
    optional("max_answer_chars", int(1, 10_000_000)),
    optional("min_distinct_answers", float(0.0, 1.0)),
    optional("max_same_answer", float(0.0, 1.0)),
    optional("generate", Kind::Bool),
];

/// Fields of a deployment target.
const TARGET_FIELDS: &[Field] = &[
    required("name"),
    required("url"),
    optional("transport", Kind::Text),
    optional("serve_root", Kind::Text),
    optional("destination", Kind::Text),
    optional("rsh", Kind::Text),
    optional("stage", Kind::Text),
    optional("switch", Kind::Text),
    optional("verify", Kind::Text),
    optional("rollback", Kind::Text),
];

/// Ids of the schema gate's registry (held equal to it by a test).
pub const SCHEMAS: &[&str] = &["chat_sft_v1", "syllo_v1", "completion_v1", "sharegpt_v1", "alpaca_v1"];
