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
    let state = read_state(&dir, staged.checkpoint).unwrap();
    assert_eq!((state.position.clone(), state.optimizer_step), (staged.position, 3));
    let resumed = load(&dir, &config, state).unwrap();
    let device = hone_model::device::open("cpu", 1).unwrap();
    let options = hone_model::TrainerOptions::full(64, 64);
    let mut trainer = Trainer::new(device, &config, &resumed.weights, &options).unwrap();
    resumed.put_into(&mut trainer).unwrap();
    let optimizer = trainer.optimizer_state().unwrap();
    assert!(optimizer.v.iter().any(|(_, values)| values.iter().any(|x| *x > 0.0)));

    let path = dir.join("first_moment/model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = read_state(&dir, staged.checkpoint).unwrap_err();
    assert!(format!("{error:#}").contains("first_moment"), "{error:#}");
}
