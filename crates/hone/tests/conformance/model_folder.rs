//! Deploys a model folder through the server's own door, as the daemon does.

use crate::server::Server;
use hone_pipeline::ids::CheckpointId;
use hone_pipeline::wire::{DeployFile, DeployRequest, ServerDeployment, WIRE_FORMAT_VERSION};
use serde_json::{Map, json};
use std::path::Path;

/// Uploads, loads, switches.
pub fn deploy(server: &Server, dir: &Path, model_name: &str) {
    let manifest_hash = hone_disk::manifest::write(dir).unwrap();
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let (size, blake3) = hone_disk::hash_file(&path).unwrap();
        let answer = server.send("PUT", &format!("/admin/blobs/{blake3}"), &std::fs::read(&path).unwrap());
        assert_eq!(answer.status, 201, "{}", answer.text);
        files.push(DeployFile { path: path.file_name().unwrap().to_str().unwrap().to_string(), size, blake3 });
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let request = DeployRequest {
        format_version: WIRE_FORMAT_VERSION,
        checkpoint: CheckpointId(7),
        manifest_hash,
        model_name: model_name.to_string(),
        files,
        chat_template_kwargs: Map::new(),
        profile: "plain".to_string(),
    };
    let answer = server.send("POST", "/admin/deployments", &serde_json::to_vec(&request).unwrap());
    assert_eq!(answer.status, 200, "{}", answer.text);
    let created: ServerDeployment = serde_json::from_str(&answer.text).unwrap();
    assert_eq!(created.state, "loaded", "{}", created.error);
    let switched =
        server.send("POST", &format!("/admin/deployments/{}/switch", created.id), json!({}).to_string().as_bytes());
    assert_eq!(switched.status, 200, "{}", switched.text);
}
