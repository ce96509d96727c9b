//! A resume folder is whole or not read.

use super::*;
use crate::YieldFlag;
use crate::testing::{PAIRS, Workspace, run, settings, staged};

#[test]
fn a_damaged_resume_folder_is_not_read() {
    let workspace = Workspace::new(Dtype::F32);
    let request = workspace.request(&[workspace.chat_file("dataset-1", &PAIRS)], settings());
    let staged = staged(&run(&request, &YieldFlag::default()).unwrap());
    let dir = workspace.root().join(&staged.resume_staging);
    let config = Config::from_dir(&workspace.base()).unwrap();
    let resumed = load(&dir, &config, staged.checkpoint).unwrap();
    assert_eq!(resumed.state.position, staged.position);
    assert_eq!(resumed.optimizer.step, 3);
    assert!(resumed.optimizer.v.iter().any(|(_, values)| values.iter().any(|x| *x > 0.0)));

    let path = dir.join("first_moment/model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = load(&dir, &config, staged.checkpoint).unwrap_err();
    assert!(format!("{error:#}").contains("first_moment"), "{error:#}");
}
