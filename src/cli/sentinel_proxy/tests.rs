use std::collections::HashMap;
use std::ffi::OsString;

use proptest::prelude::*;

use super::*;
use crate::cli::{Invocation, parse};
use crate::config;
use crate::config::flags::{SENTINEL_PASSWORD, UPSTREAM_PASSWORD};

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn translated_with(line: &str, variables: &[(&str, &str)]) -> Option<String> {
    let variables: HashMap<&str, &str> = variables.iter().copied().collect();
    from_arguments(&words(line), &|name| variables.get(name).map(|value| (*value).to_owned()))
}

fn translated(line: &str) -> String {
    translated_with(line, &[]).unwrap_or_else(|| panic!("not recognised: {line}"))
}

fn from_variables(variables: &[(&str, &str)]) -> Option<String> {
    let variables: HashMap<&str, &str> = variables.iter().copied().collect();
    from_environment(&|name| variables.get(name).map(|value| (*value).to_owned()))
}

/// Returns the command in a text.
fn respgate_line(text: &str) -> &str {
    text.lines().find_map(|line| line.trim().strip_prefix("respgate ")).unwrap_or_else(|| panic!("{text}"))
}

/// The options of a command work: respgate takes them, and its configuration has no error.
fn assert_works(text: &str) {
    let line = respgate_line(text).replace('\'', "");
    let arguments = ["respgate"].into_iter().chain(line.split_whitespace()).map(OsString::from);
    let Ok(Invocation::Run(flags)) = parse(arguments) else { panic!("{line}") };
    let password = |name: &str| [SENTINEL_PASSWORD, UPSTREAM_PASSWORD].contains(&name).then(|| "x".into());
    let (config, report) = config::load(&flags, &password);
    assert!(config.is_some(), "{line}: {report}");
}

const FLANT: &str =
    "respgate -listen :9999 -sentinel sentinel.example:26379 -master mymaster -resolve-retries 3";

#[test]
fn a_whole_command_line() {
    let text = translated_with(FLANT, &[("SENTINEL_PASSWORD", "geheim")]).expect("recognised");
    let expected = "\
These are the settings of redis-sentinel-proxy, so respgate has not started. The same with respgate:

  export RESPGATE_SENTINEL_PASSWORD=\"$SENTINEL_PASSWORD\"
  respgate --listen 0.0.0.0:9999 --upstream 'redis-sentinel://sentinel.example:26379#mymaster'

-resolve-retries: no counterpart; respgate does not end when it finds no primary; it asks again

docs/migration.md lists the counterpart of each setting.
";
    assert_eq!(text, expected);
    assert_works(&text);
}

#[test]
fn the_forms_that_go_takes() {
    let expected = respgate_line(&translated(FLANT)).to_owned();
    for line in [
        "respgate --sentinel sentinel.example:26379 --master=mymaster --listen :9999",
        "respgate -listen=:9999 -sentinel=sentinel.example:26379 -master=mymaster",
        "respgate -master mymaster -sentinel sentinel.example:26379 -- -listen :1",
        "respgate -debug=false -master mymaster -sentinel sentinel.example:26379 rest -listen :1",
    ] {
        assert_eq!(respgate_line(&translated(line)), expected, "{line}");
    }
}

#[test]
fn what_is_left_out_has_its_default() {
    let text = translated("respgate -master shop");
    assert_eq!(
        respgate_line(&text),
        "--listen 0.0.0.0:9999 --upstream 'redis-sentinel://127.0.0.1:26379#shop'"
    );
    assert!(text.contains("-listen: not given; the command has the usual default, :9999\n"), "{text}");
    assert!(text.contains("-sentinel: not given;") && !text.contains("-master: not given"), "{text}");
    assert_works(&text);
}

#[test]
fn several_sentinels_and_a_strange_name() {
    let text = translated("respgate -sentinel s1:26379,:26380,[::1]:26381 -master a#b'c -listen localhost:1");
    let url = "redis-sentinel://s1:26379,127.0.0.1:26380,[::1]:26381#a%23b%27c";
    assert_eq!(respgate_line(&text), format!("--listen 127.0.0.1:1 --upstream '{url}'"));
    assert_works(&text);
}

#[test]
fn a_host_name_to_listen_on_is_said() {
    let text = translated("respgate -listen proxy.example:9999 -master m");
    assert!(respgate_line(&text).starts_with("--listen IP:PORT "), "{text}");
    assert!(text.contains("-listen: respgate needs an IP address"), "{text}");
}

#[test]
fn variables_alone() {
    let text = from_variables(&[
        ("SENTINEL", "s1:26379"),
        ("MASTER", "shop"),
        ("LISTEN", "10.0.0.1:6379"),
        ("PASSWORD", "geheim"),
        ("DEBUG", "true"),
    ]);
    let text = text.expect("recognised");
    assert_eq!(
        respgate_line(&text),
        "--listen 10.0.0.1:6379 --upstream 'redis-sentinel://s1:26379#shop' --log-level debug"
    );
    assert!(text.contains("  export RESPGATE_SENTINEL_PASSWORD=\"$PASSWORD\"\n"), "{text}");
    assert_works(&text);
    let text = from_variables(&[("RSP_SENTINEL", "s1:26379"), ("DEBUG", "true"), ("USERNAME", "me")]);
    let text = text.expect("recognised");
    assert!(!text.contains("debug") && !text.contains("user"), "variables of any program: {text}");
    for others in
        [&[][..], &[("LISTEN", ":1"), ("DEBUG", "1")], &[("SENTINEL", "")], &[("SENTINEL_PASSWORD", "x")]]
    {
        assert_eq!(from_variables(others), None, "{others:?}");
    }
}

#[test]
fn a_flag_wins_over_its_variable() {
    let variables = [("RSP_MASTER", "other"), ("SENTINEL_PASSWORD", "one")];
    let text = translated_with("respgate -master shop -password two", &variables).expect("recognised");
    assert!(respgate_line(&text).ends_with("#shop'"), "{text}");
    assert_eq!(text.matches("export ").count(), 1, "{text}");
    assert!(text.contains("export RESPGATE_SENTINEL_PASSWORD=...\n"), "{text}");
    assert!(text.contains("or give a file with it: --sentinel-password-file FILE"), "{text}");
}

#[test]
fn the_arguments_of_respgate_are_left_alone() {
    for line in [
        "respgate",
        "respgate -h",
        "respgate -V",
        "respgate --listen 127.0.0.1:1 --upstream redis://a",
        "respgate --config x.toml",
        "respgate -listen 127.0.0.1:1",
        "respgate --password x",
        "respgate check -master x",
        "respgate - -master x",
        "respgate ---master x",
    ] {
        assert_eq!(translated_with(line, &[]), None, "{line}");
    }
    assert!(translated_with("respgate -listen :1", &[("RSP_MASTER", "m")]).is_some());
}

/// Every setting is recognised as a flag and as a variable, its counterpart is printed, the command works, and
/// docs/migration.md has both in one line.
#[test]
fn every_setting_has_its_counterpart() {
    let page = include_str!("../../../docs/migration.md");
    for setting in SETTINGS {
        let value = match setting.meaning {
            Meaning::Listen => "10.0.0.1:1234",
            Meaning::Sentinels => "s9.example:26379",
            Meaning::Master | Meaning::Option("--sentinel-user" | "--upstream-user") => "name9",
            Meaning::Option("--max-clients" | "--workers") => "2",
            _ => "value9",
        };
        let expected = match setting.meaning {
            Meaning::Listen => "--listen 10.0.0.1:1234".to_owned(),
            Meaning::Sentinels => "redis-sentinel://s9.example:26379#".to_owned(),
            Meaning::Master => "#name9'".to_owned(),
            Meaning::Option(option) => format!(" {option} {value}"),
            Meaning::Secret(variable) => format!("export {variable}="),
            Meaning::Debug => "--log-level debug".to_owned(),
            Meaning::Key(key) => format!(": set {key} in a configuration file"),
            Meaning::Nothing(why) => format!(": no counterpart; {why}"),
        };
        let flag = setting.flag;
        let line = match setting.is_switch {
            true => format!("respgate -{flag} -master name9"),
            false => format!("respgate -{flag} {value} -master=name9"),
        };
        let mut texts = vec![translated(&line)];
        for variable in setting.variables {
            let given = if setting.is_switch { "true" } else { value };
            let variables = [("SENTINEL", "s9.example:26379"), (*variable, given)];
            texts.push(from_variables(&variables).expect("recognised"));
        }
        for text in texts {
            assert!(text.contains(&expected), "-{flag}: {expected:?} is not in {text}");
            // The files of certificates do not exist.
            if !matches!(setting.meaning, Meaning::Option("--tls-cert" | "--tls-key" | "--tls-client-ca")) {
                assert_works(&text);
            }
        }
        let counterparts: Vec<&str> = match setting.meaning {
            Meaning::Listen => vec!["`--listen`"],
            Meaning::Sentinels => vec!["`--upstream`"],
            Meaning::Master => vec!["`primary-name`"],
            Meaning::Option(name) | Meaning::Secret(name) => vec![name],
            Meaning::Debug => vec!["`--log-level`"],
            Meaning::Key(keys) => keys.split(" and ").collect(),
            Meaning::Nothing(_) => vec!["none"],
        };
        let row = page.lines().find(|line| line.starts_with('|') && line.contains(&format!("`-{flag}`")));
        let row = row.unwrap_or_else(|| panic!("docs/migration.md has no line with `-{flag}`"));
        let names = setting.variables.iter().map(|name| format!("`{name}`"));
        for name in names.chain(counterparts.into_iter().map(str::to_owned)) {
            assert!(row.contains(&name), "docs/migration.md: {name} is not in the line of -{flag}: {row}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Neither a password nor a value of an unknown flag is ever printed, wherever it stands.
    #[test]
    fn no_secret_is_printed(secret in "[a-z]{12}", form in 0..4_usize, at in 0..SETTINGS.len()) {
        let setting = &SETTINGS[at];
        let is_secret = matches!(setting.meaning, Meaning::Secret(_));
        let flag = if is_secret { setting.flag } else { "a-fork-has-it" };
        let text = match form {
            0 => translated(&format!("respgate -{flag} {secret} -master m")),
            1 => translated(&format!("respgate -master m -{flag}={secret}")),
            2 => translated(&format!("respgate -master m -sentinel redis://u:{secret}@s1:26379")),
            _ => {
                let name = setting.variables.first().filter(|_| is_secret).unwrap_or(&"PASSWORD");
                from_variables(&[("SENTINEL", "s1:26379"), (name, &secret)]).expect("recognised")
            }
        };
        prop_assert!(!text.contains(&secret), "{text}");
    }

    /// Any name and any path come through a shell as they are.
    #[test]
    fn a_value_is_one_word_of_a_shell(value in "[ -~]{1,20}") {
        let output = std::process::Command::new("sh").args(["-c", &format!("printf %s {}", quoted(&value))]).output();
        prop_assert_eq!(String::from_utf8(output.unwrap().stdout).unwrap(), value);
    }
}
