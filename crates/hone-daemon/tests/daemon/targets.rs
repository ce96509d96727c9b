//! Targets that programs of the user serve.

use super::*;

#[test]
fn a_rollback_runs_the_targets_own_program_and_believes_only_what_it_verifies() {
    let mut ws = Workspace::new(|settings| {
        let target = &mut settings.targets[0];
        let Transport::Local { serve_root } = &target.transport else { panic!("{target:?}") };
        let at = |name: &str| serve_root.with_file_name(name).display().to_string();
        let (log, served, before) = (at("programs.log"), at("served.json"), at("before.json"));
        let told = r#"printf '{"checkpoint": %s, "manifest_hash": "%s"}\n' "$HONE_CHECKPOINT" "$HONE_MANIFEST_HASH""#;
        target.transport = Transport::Command {
            stage: format!("echo \"stage $HONE_CHECKPOINT\" >> {log}"),
            switch: format!("touch {served}; cp {served} {before}; {told} > {served}"),
            verify: format!("cat {served}"),
            rollback: Some(format!("echo \"rollback to $HONE_CHECKPOINT\" >> {log}; cp {before} {served}")),
        };
    });
    ws.start();
    ws.wait_for("the base model is served", |state| serves(state, 0));
    ws.submit("a.jsonl", &rows("a", 4));
    ws.wait_for("checkpoint-4 is served", |state| serves(state, 4));
    ws.command(Command::Rollback { reason: "worse".to_string() }).unwrap();
    let state = ws.wait_for("the base model is served again", |state| serves(state, 0));
    let steps: Vec<&str> = state.live_on("here").unwrap().steps.iter().map(|(step, _)| step.as_str()).collect();
    assert_eq!(steps, ["switch", "confirm"]);
    let log = std::fs::read_to_string(ws.path().join("programs.log")).unwrap();
    assert_eq!(log, "stage 0\nstage 4\nrollback to 0\n");
}
