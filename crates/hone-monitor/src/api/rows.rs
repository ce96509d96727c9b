//! One row of a file as the trainer sees it. Tokenizing is not the monitor's business: it asks for it and passes it on.

use super::{Refusal, Shared, error, failed};
use crate::RowAsked;
use crate::desk::Records;
use crate::sources::queue;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use hone_pipeline::ids::DatasetId;
use serde_json::{Value, json};

/// `GET /api/datasets/N/rows/LINE`.
pub(super) async fn row(State(shared): State<Shared>, asked: Result<Path<(u64, u64)>, PathRejection>) -> Response {
    let Ok(Path((number, line))) = asked else {
        return failed(&Refusal::Invalid("the path names a file and a line by number".to_string()));
    };
    let Some(door) = shared.0.rows.clone() else {
        return failed(&Refusal::Forbidden("this monitor cannot show rows".to_string()));
    };
    let Ok(_permit) = shared.0.under_way.clone().try_acquire_owned() else { return super::door::busy() };
    let (entry, asked) = match shared.0.desk.find(move |records| place(records, number, line)).await {
        Ok(found) => found,
        Err(response) => return response,
    };
    match tokio::task::spawn_blocking(move || door(&asked)).await {
        Ok(Ok(mut told)) => {
            // Where files lie is nobody's business.
            let row = told["rows"][0].take();
            let parts = ["schema_id", "profile", "max_length"].map(|part| told[part].take());
            let [schema_id, profile, max_length] = parts;
            let profile = &profile["name"];
            axum::Json(json!({
                "dataset": entry, "row": row, "schema_id": schema_id, "profile": profile, "max_length": max_length,
            }))
            .into_response()
        }
        Ok(Err(reason)) => {
            tracing::debug!(number, line, "a row is not shown: {reason}");
            let message = format!(
                "line {line} cannot be shown: there is no such row, or it cannot be read (`hone data show --row {line}` says more)"
            );
            error(StatusCode::UNPROCESSABLE_ENTITY, "row_unavailable", &message)
        }
        Err(_) => error(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the answer broke off; see the log"),
    }
}

/// The file's entry, and what is asked of whom it concerns.
fn place(records: &mut Records, number: u64, line: u64) -> Result<(Value, RowAsked), Refusal> {
    let state = records.workspace.state()?;
    let found = state.datasets.get(&DatasetId(number));
    let dataset = found.ok_or_else(|| Refusal::NotFound(format!("there is no dataset-{number}")))?;
    let file = hone_store::datasets::present_file(records.workspace.layout(), dataset);
    let file = file.ok_or_else(|| Refusal::NotFound(format!("the file of dataset-{number} is not there any more")))?;
    Ok((queue::dataset_entry(dataset), RowAsked { file, schema_id: dataset.schema_id.clone(), line }))
}
