//! The grammar that attackers write commands from. The server describes its own commands (`COMMAND DOCS`: every
//! argument, its type and its option words); commands of respgate's table that this server does not know are added
//! without arguments.

use std::collections::BTreeMap;

use fastrand::Rng;
use redis_protocol::resp2::decode::decode;
use redis_protocol::resp2::types::OwnedFrame;
use respgate::command::TABLE;

use crate::words::Words;

/// Repeats of an argument that may stand several times.
const MAX_REPEATS: usize = 3;

/// In how many of ten commands an optional argument stands: few options together make a valid command.
const OPTIONAL: u8 = 3;

/// The most that a command's arguments count when one is drawn.
const MAX_WEIGHT: usize = 12;

/// What an argument holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Key,
    Number,
    Text,
    /// The option word alone.
    Word,
    /// One of the children.
    OneOf,
    /// All children in order.
    Block,
}

/// One argument of a command.
#[derive(Clone, Debug)]
struct Argument {
    name: String,
    kind: Kind,
    /// The option word in front of it.
    token: Option<String>,
    optional: bool,
    multiple: bool,
    /// The option word stands in front of each repeat.
    token_repeats: bool,
    children: Vec<Argument>,
}

/// One command or subcommand.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The name, and the subcommand if there is one.
    words: Vec<String>,
    arguments: Vec<Argument>,
}

/// A written command: its arguments, and which of them are words of the protocol rather than values.
#[derive(Clone, Debug, Default)]
pub struct Command {
    pub arguments: Vec<Vec<u8>>,
    pub words: Vec<usize>,
    /// How many keys follow, where a count was written.
    keys: Option<usize>,
}

/// All commands of a server, by group.
pub struct Grammar {
    groups: Vec<(String, Vec<Rule>)>,
}

impl Grammar {
    /// Reads the reply to `COMMAND DOCS` in RESP2.
    pub fn read(docs: &[u8]) -> Self {
        let (frame, _) = decode(docs).expect("COMMAND DOCS is RESP2").expect("COMMAND DOCS is whole");
        let mut groups = BTreeMap::<String, Vec<Rule>>::new();
        for (name, facts) in pairs(&frame) {
            let group = text(field(facts, "group")).unwrap_or_default();
            let rules = groups.entry(group).or_default();
            rules.push(rule(vec![name.to_uppercase()], facts));
            for (subcommand, facts) in field(facts, "subcommands").map(pairs).unwrap_or_default() {
                rules.push(rule(subcommand.to_uppercase().split('|').map(str::to_owned).collect(), facts));
            }
        }
        let known = |words: &[String]| groups.values().flatten().any(|rule| rule.words == words);
        let missing = TABLE
            .iter()
            .map(|spec| spec.name.split('|').map(str::to_owned).collect::<Vec<_>>())
            .filter(|words| !known(words))
            .map(|words| Rule { words, arguments: Vec::new() })
            .collect::<Vec<_>>();
        groups.entry("unknown to the server".to_owned()).or_default().extend(missing);
        let groups = groups.into_iter().filter(|(_, rules)| !rules.is_empty()).collect();
        Self { groups }
    }

    /// A valid command, as far as the documentation says: half of the time any group is as likely as any other, so
    /// that the few commands about connections, transactions and subscriptions are not lost among the many about data.
    pub fn draw(&self, rng: &mut Rng, words: &Words) -> Command {
        if rng.bool() {
            let (group, _) = &self.groups[rng.usize(..self.groups.len())];
            return self.draw_of(&[group], rng, words);
        }
        let all = self.groups.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>();
        self.draw_of(&all, rng, words)
    }

    /// A command of one of these groups, more often one that has many arguments.
    pub fn draw_of(&self, groups: &[&str], rng: &mut Rng, words: &Words) -> Command {
        let wanted = self.groups.iter().filter(|(name, _)| groups.contains(&name.as_str()));
        let rules = wanted.flat_map(|(_, rules)| rules).collect::<Vec<_>>();
        let sum: usize = rules.iter().map(|rule| rule.weight()).sum();
        let mut at = rng.usize(..sum);
        let chosen = rules.into_iter().find(|rule| {
            let found = at < rule.weight();
            at = at.saturating_sub(rule.weight());
            found
        });
        chosen.expect("the place is below the sum").write(rng, words)
    }
}

impl Rule {
    fn weight(&self) -> usize {
        1 + self.arguments.iter().map(Argument::size).sum::<usize>().min(MAX_WEIGHT)
    }

    fn write(&self, rng: &mut Rng, words: &Words) -> Command {
        let mut command = Command::default();
        self.words.iter().for_each(|word| command.word(word));
        for argument in &self.arguments {
            argument.write(&mut command, rng, words);
        }
        command
    }
}

impl Command {
    fn word(&mut self, word: &str) {
        self.words.push(self.arguments.len());
        self.arguments.push(word.as_bytes().to_vec());
    }
}

impl Argument {
    fn size(&self) -> usize {
        1 + self.children.iter().map(Argument::size).sum::<usize>()
    }

    fn write(&self, command: &mut Command, rng: &mut Rng, words: &Words) {
        if self.optional && rng.u8(..10) >= OPTIONAL {
            return;
        }
        let repeats = match self.kind {
            Kind::Key if command.keys.is_some() && self.multiple => command.keys.take().unwrap_or(1),
            _ if self.multiple => rng.usize(1..=MAX_REPEATS),
            _ => 1,
        };
        for repeat in 0..repeats {
            if let Some(token) = &self.token
                && (repeat == 0 || self.token_repeats)
            {
                command.word(token);
            }
            match self.kind {
                Kind::Word => {}
                Kind::OneOf if self.children.is_empty() => {}
                Kind::OneOf => self.children[rng.usize(..self.children.len())].write(command, rng, words),
                Kind::Block => self.children.iter().for_each(|child| child.write(command, rng, words)),
                Kind::Key => command.arguments.push(words.key(rng)),
                Kind::Number if self.name == "numkeys" => {
                    let keys = rng.usize(0..=MAX_REPEATS);
                    command.keys = Some(keys);
                    command.arguments.push(keys.to_string().into_bytes());
                }
                Kind::Number => command.arguments.push(words.number(&self.name, rng)),
                Kind::Text => command.arguments.push(words.text(&self.name, rng)),
            }
        }
    }
}

fn rule(words: Vec<String>, facts: &OwnedFrame) -> Rule {
    Rule { words, arguments: arguments(facts) }
}

fn arguments(facts: &OwnedFrame) -> Vec<Argument> {
    let Some(OwnedFrame::Array(list)) = field(facts, "arguments") else { return Vec::new() };
    list.iter().map(argument).collect()
}

fn argument(facts: &OwnedFrame) -> Argument {
    let flags = match field(facts, "flags") {
        Some(OwnedFrame::Array(flags)) => flags.iter().filter_map(|flag| text(Some(flag))).collect(),
        _ => Vec::new(),
    };
    let flag = |name: &str| flags.iter().any(|flag| flag == name);
    let kind = match text(field(facts, "type")).unwrap_or_default().as_str() {
        "key" => Kind::Key,
        "integer" | "double" | "unix-time" => Kind::Number,
        "pure-token" => Kind::Word,
        "oneof" => Kind::OneOf,
        "block" => Kind::Block,
        _ => Kind::Text,
    };
    Argument {
        name: text(field(facts, "name")).unwrap_or_default(),
        kind,
        token: text(field(facts, "token")),
        optional: flag("optional"),
        multiple: flag("multiple"),
        token_repeats: flag("multiple_token"),
        children: arguments(facts),
    }
}

/// Name and value in turn, as RESP2 writes a map.
fn pairs(frame: &OwnedFrame) -> Vec<(String, &OwnedFrame)> {
    let OwnedFrame::Array(elements) = frame else { return Vec::new() };
    let (pairs, _) = elements.as_chunks::<2>();
    pairs.iter().filter_map(|[name, value]| Some((text(Some(name))?, value))).collect()
}

fn field<'a>(frame: &'a OwnedFrame, name: &str) -> Option<&'a OwnedFrame> {
    pairs(frame).into_iter().find(|(field, _)| field == name).map(|(_, value)| value)
}

fn text(frame: Option<&OwnedFrame>) -> Option<String> {
    match frame? {
        OwnedFrame::BulkString(bytes) | OwnedFrame::SimpleString(bytes) => {
            Some(String::from_utf8_lossy(bytes).into_owned())
        }
        _ => None,
    }
}
