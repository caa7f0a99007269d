//! Requests of every command with every option, from the syntax that the server itself documents (COMMAND DOCS).

use std::collections::BTreeMap;

use respgate::command::{Spec, Verb};

use crate::support::servers::Server;
use crate::support::tree::{Reply, many, parse, text};

/// The words of one request.
pub type Words = Vec<String>;

/// Scripts that try to leave something on the connection that runs them.
const SCRIPTS: &[&str] = &[
    "redis.call('SELECT', 5)",
    "redis.setresp(3); return redis.call('HGETALL', 'h')",
    "return redis.pcall('CLIENT', 'TRACKING', 'ON')",
    "return redis.pcall('CLIENT', 'NO-TOUCH', 'ON')",
    "return redis.pcall('CLIENT', 'SETNAME', 'scripted')",
    "return redis.pcall('SUBSCRIBE', 'c')",
    "return redis.pcall('MULTI')",
    "return redis.pcall('WATCH', 'k')",
    "return redis.pcall('MONITOR')",
    "return redis.pcall('HELLO', '3')",
    "return redis.pcall('AUTH', 'x')",
    "redis.call('READONLY')",
    "redis.call('READWRITE')",
    "redis.call('ASKING')",
    "redis.pcall('QUIT')",
    "redis.pcall('RESET')",
    "redis.breakpoint()",
    "redis.debug('x')",
    "redis.replicate_commands()",
    "redis.set_repl(redis.REPL_NONE)",
    "redis.call('BLPOP', 'nothing', 0)",
    "error('x')",
];

/// One argument of a command, as COMMAND DOCS tells it.
#[derive(Default)]
struct Argument {
    kind: String,
    token: Option<String>,
    optional: bool,
    multiple: bool,
    arguments: Vec<Argument>,
}

/// What a server documents of each command, by the table's names.
pub struct Documented(BTreeMap<String, Vec<Argument>>);

impl Documented {
    pub fn by(server: &Server) -> Self {
        let mut found = BTreeMap::new();
        collect(&parse(&mut &server.run(&["COMMAND", "DOCS"])[..]), &mut found);
        assert!(found.len() > 350, "{} commands are documented", found.len());
        Self(found)
    }

    /// Valid requests of a command, which differ in one option each, and nearly valid ones.
    pub fn requests(&self, spec: &Spec) -> Vec<Words> {
        let name: Words = spec.name.split('|').map(str::to_owned).collect();
        let with_name = |words: Words| [name.clone(), words].concat();
        let arguments = self.0.get(spec.name).map_or(&[][..], Vec::as_slice);
        let mut requests: Vec<Words> = variants(arguments).into_iter().map(with_name).collect();
        if matches!(spec.verb, Verb::Eval | Verb::EvalRo) {
            requests.extend(SCRIPTS.iter().map(|script| with_name(vec![(*script).into(), "0".into()])));
        }
        let mut nearly: Vec<Words> = Vec::new();
        for request in &requests {
            for place in name.len()..request.len() {
                // A server reads such a word as an option if it does so without what follows the NUL.
                if request[place].bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-') {
                    let mut hidden = request.clone();
                    hidden[place].push_str("\0x");
                    nearly.push(hidden);
                    let mut lower = request.clone();
                    lower[place] = lower[place].to_ascii_lowercase();
                    nearly.push(lower);
                }
            }
        }
        let shortest = requests.first().cloned().unwrap_or_default();
        nearly.push(shortest[..shortest.len() - 1].to_vec());
        nearly.push([shortest, vec!["x".to_owned()]].concat());
        nearly.retain(|request| !request.is_empty());
        requests.extend(nearly);
        requests.sort();
        requests.dedup();
        requests
    }
}

fn collect(docs: &Reply, found: &mut BTreeMap<String, Vec<Argument>>) {
    for pair in many(docs).chunks_exact(2) {
        let mut arguments = Vec::new();
        for field in many(&pair[1]).chunks_exact(2) {
            match text(&field[0]) {
                "arguments" => arguments = many(&field[1]).iter().map(argument).collect(),
                "subcommands" => collect(&field[1], found),
                _ => {}
            }
        }
        found.insert(text(&pair[0]).to_ascii_uppercase(), arguments);
    }
}

fn argument(docs: &Reply) -> Argument {
    let mut argument = Argument::default();
    for field in many(docs).chunks_exact(2) {
        match text(&field[0]) {
            "type" => argument.kind = text(&field[1]).to_owned(),
            "token" => argument.token = Some(text(&field[1]).to_owned()),
            "flags" => {
                let flags: Vec<&str> = many(&field[1]).iter().map(text).collect();
                argument.optional = flags.contains(&"optional");
                argument.multiple = flags.contains(&"multiple");
            }
            "arguments" => argument.arguments = many(&field[1]).iter().map(self::argument).collect(),
            _ => {}
        }
    }
    argument
}

/// The ways to write a list of arguments: the shortest first, then one for each other choice of one of them, and one
/// with all that is optional.
fn variants(arguments: &[Argument]) -> Vec<Words> {
    let choices: Vec<Vec<Words>> = arguments.iter().map(choices).collect();
    let shortest: Vec<Words> = choices.iter().map(|choices| choices[0].clone()).collect();
    let mut variants = vec![shortest.concat()];
    for (place, choices) in choices.iter().enumerate() {
        for choice in &choices[1..] {
            let mut words = shortest.clone();
            words[place] = choice.clone();
            variants.push(words.concat());
        }
    }
    let everything: Vec<Words> =
        choices.iter().map(|choices| choices[choices.len().min(2) - 1].clone()).collect();
    variants.push(everything.concat());
    variants
}

/// The ways to write one argument: the first is the shortest, the second is not empty.
fn choices(argument: &Argument) -> Vec<Words> {
    let values: Vec<Words> = match argument.kind.as_str() {
        "oneof" => argument.arguments.iter().flat_map(choices).filter(|choice| !choice.is_empty()).collect(),
        "block" => variants(&argument.arguments),
        "pure-token" => vec![Vec::new()],
        kind => vec![vec![value(kind).to_owned()]],
    };
    let token: Words = argument.token.iter().cloned().collect();
    let mut choices: Vec<Words> =
        values.iter().map(|value| [token.clone(), value.clone()].concat()).collect();
    if argument.multiple {
        choices.push([choices[0].clone(), choices[0].clone()].concat());
    }
    if argument.optional {
        choices.insert(0, Vec::new());
    }
    choices
}

/// A value that most commands take. Timeouts are short.
fn value(kind: &str) -> &'static str {
    match kind {
        "key" => "k",
        "double" => "0.001",
        "integer" => "1",
        "pattern" => "p*",
        "unix-time" => "2000000000",
        _ => "x",
    }
}
