//! Binary: arithmetic on numbers written with the digits ⓪ and ①.

use crate::{Batch, GenerateRequest, Info, LevelInfo, Skill, SkillError, VerifyResult};
use serde_json::Value;

/// The skill.
pub struct Binary;

impl Skill for Binary {
    fn info(&self) -> Info {
        Info {
            skill: "binary".to_string(),
            name: "Binary".to_string(),
            description: "Arithmetic and bitwise operations on numbers written with the digits ⓪ and ①.".to_string(),
            version: "1".to_string(),
            api_version: crate::API_VERSION.to_string(),
            total_levels: 7,
        }
    }

    fn levels(&self) -> &[LevelInfo] {
        &[]
    }

    fn generate(&self, _request: &GenerateRequest) -> Result<Batch, SkillError> {
        Err(SkillError::MetadataInvalid("not built yet".to_string()))
    }

    fn verify(&self, _level: u32, _metadata: &Value, _response: &str) -> Result<VerifyResult, SkillError> {
        Err(SkillError::MetadataInvalid("not built yet".to_string()))
    }
}
