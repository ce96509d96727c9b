//! Tests of `data`.

use super::*;

#[test]
fn a_skill_that_is_not_configured_is_named_with_those_that_are() {
    let with = |names: &[&str]| {
        let skill = |name: &&str| SkillEndpoint::new(name, "");
        DataManagerConfig { skills: names.iter().map(skill).collect(), ..DataManagerConfig::default() }
    };
    let two = with(&["binary", "syllo"]);
    let found = |name| find(&two, name).map(|skill| skill.name.clone());
    assert_eq!(found(None), Ok("binary".to_string()));
    assert_eq!(found(Some("syllo")), Ok("syllo".to_string()));
    let told = found(Some("chess")).unwrap_err();
    assert_eq!(told, "generate data: no skill \"chess\" is configured (configured: binary, syllo)");
    assert!(find(&with(&[]), Some("binary")).unwrap_err().contains("no skill is configured"));
}
