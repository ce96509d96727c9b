//! The Skill API over HTTP for the skills of hone-skills.
