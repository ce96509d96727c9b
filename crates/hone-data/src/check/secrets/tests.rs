//! Tests of `secrets`. No value here is a real one.

use super::*;

#[track_caller]
fn check(text: &str, expected: &[&str]) {
    let mut found = Vec::new();
    problems(text, &mut found);
    assert_eq!(found.iter().map(|(problem, _)| problem.code).collect::<Vec<_>>(), expected, "{text}");
    for (_, evidence) in found {
        assert!(evidence.unwrap().contains('…'), "evidence is masked");
    }
}

#[test]
fn secrets_are_found_and_look_alikes_are_not() {
    check(&["key: AKIA", "IOSFODNN7EXAMPLE"].concat(), &["secret"]);
    check(&["token gh", "p_0123456789abcdefghij0123456789abcdef"].concat(), &["secret"]);
    check(&["-----BEGIN ", "PRIVATE KEY-----\nMIIE"].concat(), &["secret"]);
    check("use sk-learn-contrib-packages-and-other-things here", &[]);
    check("AKIA is a name", &[]);
    check("risk-0123456789abcdefghij0123456789abcdef", &[]);
}

/// 4111 1111 1111 1111 is the test number of card companies; its checksum holds, that of …1112 does not.
#[test]
fn personal_data_are_found_and_look_alikes_are_not() {
    check("write to anna.b@mail-provider.de please", &["personal_data"]);
    check("write to anna@example.com", &[]);
    check("@handle and a@b", &[]);
    check("card 4111 1111 1111 1111", &["personal_data"]);
    check("card 4111111111111111", &["personal_data"]);
    check("card 4111 1111 1111 1112", &[]);
    check("call +49 30 1234567 now", &["personal_data"]);
    check("in 2024 we had 1234567890123 rows and 3.141592653589793", &[]);
}
