//! The choice is deterministic, spread over the sources, and survives a resume.

use super::{choose, files, num_rows};
use crate::rows;
use crate::slice::{YieldFlag, train_slice};
use crate::testing::Workspace;
use hone_pipeline::config::{Overlong, TrainSettings};
use hone_pipeline::event::StagedCheckpoint;
use hone_pipeline::ids::JobId;
use hone_pipeline::wire::{Replay, TrainFile, WorkerMessage};

fn file(workspace: &Workspace, name: &str, count: usize) -> TrainFile {
    let texts: Vec<(String, String)> = (0..count).map(|i| (format!("{name} {i}?"), format!("{i}!"))).collect();
    let pairs: Vec<(&str, &str)> = texts.iter().map(|(q, a)| (q.as_str(), a.as_str())).collect();
    workspace.chat_file(name, &pairs)
}

#[test]
fn a_share_is_of_the_new_rows() {
    assert_eq!(
        [num_rows(0.1, 100), num_rows(0.1, 4), num_rows(0.1, 5), num_rows(0.0, 100), num_rows(1.0, 7)],
        [10, 0, 1, 0, 7]
    );
}

#[test]
fn the_same_rows_for_the_same_job_and_others_for_another() {
    let workspace = Workspace::new(hone_model::Dtype::F32);
    let replay =
        Replay { share: 0.5, files: vec![file(&workspace, "dataset-1", 40), file(&workspace, "dataset-2", 40)] };
    let chosen = |seed, job| choose(&replay, 20, (seed, JobId(job)), &mut || {}).unwrap();
    let first = chosen(42, 7);
    assert_eq!(first, chosen(42, 7));
    assert_ne!(first, chosen(42, 8));
    assert_ne!(first, chosen(43, 7));
    assert_eq!(first.iter().map(|lines| lines.len()).sum::<usize>(), 20);
    // 20 of 80 rows: each source gives 10 in the mean, with a deviation of 2.
    assert!(first.iter().all(|lines| (3..=17).contains(&lines.len())), "{first:?}");
    let all = choose(&replay, 1000, (42, JobId(7)), &mut || {}).unwrap();
    assert_eq!(all.iter().map(|lines| lines.len()).sum::<usize>(), 80, "no more than there are");
}

/// Trains the whole job in slices of `save_steps`; returns the digest of all trained rows and the weights.
fn train(save_steps: u64) -> (String, Vec<u8>) {
    let workspace = Workspace::new(hone_model::Dtype::F32);
    let new = file(&workspace, "dataset-3", 12);
    let replay = Replay { share: 0.5, files: vec![file(&workspace, "dataset-1", 9)] };
    let settings = TrainSettings {
        batch_size: 3,
        save_steps,
        preview_steps: 0,
        threads: 1,
        device: "reference".to_string(),
        ..TrainSettings::default()
    };
    let mut request = workspace.request(&[new], settings);
    request.replay = Some(replay);
    loop {
        let mut staged: Option<StagedCheckpoint> = None;
        let mut report = |message| {
            if let WorkerMessage::Staged(told) = message {
                staged = Some(told);
            }
        };
        train_slice(&request, &mut report, &YieldFlag::default()).unwrap();
        let staged = staged.unwrap();
        // 12 new rows and 6 replayed ones in steps of 3.
        assert_eq!(staged.position.total_steps, 6);
        workspace.publish(&mut request, &staged);
        if staged.ends_job {
            let folder = workspace.root().join(staged.checkpoint.to_string());
            let lineage = std::fs::read_to_string(folder.join("lineage.json")).unwrap();
            assert!(lineage.contains("replay/dataset-1"), "{lineage}");
            return (staged.rows_digest, std::fs::read(folder.join("model.safetensors")).unwrap());
        }
    }
}

#[test]
fn a_job_with_replay_resumes_exactly() {
    assert_eq!(train(100), train(2));
}

#[test]
fn replayed_rows_are_named_after_their_data_set() {
    let workspace = Workspace::new(hone_model::Dtype::F32);
    let replay = Replay { share: 1.0, files: vec![file(&workspace, "dataset-1", 5)] };
    let ctx = hone_data::ChatContext::from_dir(&workspace.base(), &Default::default(), &Default::default()).unwrap();
    let limits = rows::Limits { max_length: 64, overlong: Overlong::Skip };
    let new = [file(&workspace, "dataset-3", 2)];
    let with = rows::Selection { seed: 1, job: JobId(3), replay: Some(&replay), kept_back: &[] };
    let examples = rows::load_with(&ctx, &new, limits, with, &mut |_| {}).unwrap();
    let names: Vec<String> = (0..examples.list.len()).map(|i| examples.name(i)).collect();
    assert_eq!(names[..2], ["dataset-3:1", "dataset-3:2"]);
    assert_eq!(names.len(), 4);
    assert!(names[2..].iter().all(|name| name.starts_with("replay/dataset-1:")), "{names:?}");
    assert_eq!(files(&replay)[0].name, "replay/dataset-1");
}
