//! Tests of `export`. The bytes are those of TensorBoard's own writer; `scripts/check_tensorboard.py` reads whole files back
//! with its own reader.

use super::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn event_files_are_those_of_tensorboards_own_writer() {
    // tensorboard 2.20: RecordWriter of Event(wall_time=1.5, file_version="brain.Event:2") and
    // Event(wall_time=2.25, step=300, summary=[("train/loss", 0.5), ("train/learning_rate", 0.25)]).
    let expected = "1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a322a28646c\
                    3d000000000000006049f1ec09000000000000024010ac022a2f0a110a0a747261696e2f6c6f7373150000003f\
                    0a1a0a13747261696e2f6c6561726e696e675f72617465150000803e092a9e98";
    let mut file = header(1_500);
    record(&mut file, &scalars_event(2_250, 300, &[("train/loss", 0.5), ("train/learning_rate", 0.25)]));
    assert_eq!(hex(&file), expected);
}

#[test]
fn tensorboards_own_reader_reads_them_back() {
    let Ok(python) = std::env::var("HONE_TENSORBOARD_PYTHON") else {
        // Not by `eprintln!`: it is told also where the output of tests is not shown.
        let told = b"skipped: HONE_TENSORBOARD_PYTHON names no Python with tensorboard\n";
        std::io::Write::write_all(&mut std::io::stderr(), told).unwrap();
        return;
    };
    let step = |job_step, loss| Progress { step: 10 + job_step, job_step, loss, at_ms: 5000, ..Progress::default() };
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("job-1");
    std::fs::create_dir(&run).unwrap();
    let events = tensorboard_steps(&[step(1, 0.5), step(2, 0.375), step(3, 0.25)]);
    std::fs::write(run.join("events.out.tfevents.5.hone"), events).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/check_tensorboard.py");
    let output = std::process::Command::new(python).arg(script).arg(folder.path()).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).to_string();
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    assert!(told.contains("job-1 train/loss: 3 points, step 11 0.5 to step 13 0.25"), "{told}");
}

#[test]
fn csv_has_a_line_per_step_and_leaves_out_what_is_not_finite() {
    let step = |job_step, loss| Progress { step: 10 + job_step, job_step, loss, at_ms: 5, ..Progress::default() };
    let text = csv(&[step(1, 0.5), step(2, f64::NAN)]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "step,job_step,at_ms,loss,learning_rate,grad_norm,tokens_per_s,memory_bytes");
    assert_eq!(lines[1..], ["11,1,5,0.5,0,0,0,0", "12,2,5,,0,0,0,0"]);
}
