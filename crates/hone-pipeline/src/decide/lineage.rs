//! Another base model: a new lineage begins, or training goes on in one that stood still.
//!
//! A lineage is left as a rewind leaves what came after its target: its checkpoints stay in the ledger, marked abandoned,
//! and every job is where the chain that is trained now says it is. So a job that was trained in the lineage before is
//! not trained in this one, and `retry` trains it here, too; going back to a lineage takes all of that back. The base
//! model of a new lineage takes the next number of the ledger, because numbers never go back.

use super::draft::Draft;
use super::{deployment, rewind};
use crate::ids::CheckpointId;
use crate::state::{Change, Checkpoint, CheckpointState, LeftAt, Lineage, Marks, Position};

pub(super) fn begin(draft: &mut Draft, new: Lineage, manifest_hash: &str, reason: &str) -> Result<String, String> {
    let known = |other: &&Lineage| other.base_model == new.base_model && other.identity == new.identity;
    if let Some(known) = draft.state().lineages().find(known) {
        let number = known.number;
        return Err(format!("lineage {number} has this base model (hint: `hone lineage switch {number}`)"));
    }
    let current = current(draft)?;
    let number = draft.state().lineages().map(|lineage| lineage.number).max().unwrap_or(0) + 1;
    let base = CheckpointId(draft.state().highest_number().map_or(0, |highest| highest.0 + 1));
    let record = Checkpoint {
        id: base,
        parent: None,
        job: None,
        state: CheckpointState::Published,
        manifest_hash: manifest_hash.to_string(),
        position: Position::default(),
        rows_digest: String::new(),
        train_loss: None,
        created_ms: draft.now,
        ends_job: true,
        yielded: false,
        marks: Marks::default(),
    };
    leave(draft, current, None);
    draft.put(Change::PutCheckpoint(record));
    enter(draft, Lineage { number, base, ..new }, None, reason);
    Ok(format!("lineage {number} begins with {base}; `hone queue retry` trains a job of before in it, too"))
}

pub(super) fn switch(draft: &mut Draft, number: u64, reason: &str) -> Result<String, String> {
    let current = current(draft)?;
    if current.number == number {
        return Err(format!("lineage {number} is trained already"));
    }
    let wanted = draft.state().other_lineages.get(&number).cloned();
    let wanted = wanted.ok_or_else(|| format!("there is no lineage {number} (hint: `hone lineage` lists them)"))?;
    let left = wanted.left_at.clone().ok_or_else(|| format!("nobody knows where lineage {number} stood"))?;
    let head = left.head;
    leave(draft, current, Some(number));
    enter(draft, Lineage { left_at: None, ..wanted }, Some(left), reason);
    Ok(format!("training goes on in lineage {number} from {head}"))
}

fn current(draft: &Draft) -> Result<Lineage, String> {
    draft.state().lineage.clone().ok_or_else(|| "the workspace has no model yet (hint: `hone init`)".to_string())
}

/// Puts the lineage of now among those that stand still; `back` leaves them.
fn leave(draft: &mut Draft, current: Lineage, back: Option<u64>) {
    let state = draft.state();
    let head = state.latest_checkpoint().map_or(current.base, |latest| latest.id);
    let left_at = Some(LeftAt { head, champion: state.champion });
    let mut lineages = state.other_lineages.clone();
    if let Some(back) = back {
        lineages.remove(&back);
    }
    lineages.insert(current.number, Lineage { left_at, ..current });
    draft.put(Change::SetOtherLineages { lineages });
}

fn enter(draft: &mut Draft, lineage: Lineage, left: Option<LeftAt>, reason: &str) {
    let (number, base) = (lineage.number, lineage.base);
    let head = left.as_ref().map_or(base, |left| left.head);
    draft.put(Change::SetLineage(lineage));
    let why = format!("lineage {number} is trained: {reason}");
    rewind::go_back(draft, head, &why);
    let here = |id: &CheckpointId| {
        draft.state().checkpoints.get(id).is_some_and(|checkpoint| checkpoint.state == CheckpointState::Published)
    };
    if let Some(champion) = left.and_then(|left| left.champion).filter(here) {
        deployment::choose(draft, champion, &why);
    }
    draft.warning("lineage", head, why);
}
