//! Loss of a model on files, and its answers to questions.

use anyhow::{Result, bail};
use hone_pipeline::config::TrainSettings;
use hone_pipeline::state::SuiteResult;
use std::path::Path;

/// Evaluates any model folder on any file; the suite's name is the file's name.
pub fn evaluate_file(
    _model_dir: &Path,
    _file: &Path,
    _schema_id: &str,
    _settings: &TrainSettings,
) -> Result<SuiteResult> {
    bail!("not built yet")
}
