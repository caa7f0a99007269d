//! What was asked for in the environment.

use std::time::Duration;

use crate::arena::{Layout, Limits, Setting};
use crate::attacker::kind::Kind;
use crate::support::servers::Flavor;

/// A round takes so long at most, in seconds: what attackers leave behind is looked at between rounds.
const LONGEST_ROUND: f64 = 15.0;

/// The plan of a run.
pub struct Plan {
    pub seed: u64,
    pub time: Duration,
    /// Each of them in turn.
    pub settings: Vec<Setting>,
    pub kinds: Vec<Kind>,
    /// How long attackers attack in each round.
    pub round: Duration,
    /// How long a shorter story of a fault is looked for.
    pub shrink: Duration,
    /// Go on after a fault.
    pub keeps_going: bool,
}

impl Plan {
    pub fn read() -> Result<Self, String> {
        let seed = number("HOSTILE_SEED")?.unwrap_or_else(|| fastrand::u64(..1_000_000));
        let seconds = number("HOSTILE_SECONDS")?.unwrap_or(60);
        let flavors = choice("HOSTILE_SERVER", &Flavor::ALL, |flavor| flavor.name().to_owned())?;
        let workers = choice("HOSTILE_WORKERS", &[1, 2], usize::to_string)?;
        let mut layouts =
            choice("HOSTILE_LAYOUT", &[Layout::Listeners, Layout::Users, Layout::Cluster], name)?;
        if variable("HOSTILE_LAYOUT").is_none() {
            layouts.retain(|layout| *layout != Layout::Cluster);
        }
        let kinds = choice("HOSTILE_KINDS", &Kind::ALL, name)?;
        let mut settings = Vec::new();
        for &layout in &layouts {
            for &workers in &workers {
                settings.extend(flavors.iter().map(|&flavor| Setting {
                    flavor,
                    workers,
                    layout,
                    limits: Limits::TIGHT,
                }));
            }
        }
        // A second goes to starting and judging.
        let round = (seconds as f64 / settings.len() as f64 - 1.0).clamp(1.0, LONGEST_ROUND);
        Ok(Self {
            seed,
            time: Duration::from_secs(seconds),
            settings,
            kinds,
            round: Duration::from_secs_f64(round),
            shrink: Duration::from_secs(number("HOSTILE_SHRINK")?.unwrap_or(60)),
            keeps_going: number("HOSTILE_KEEP_GOING")? == Some(1),
        })
    }

    /// The servers and numbers of workers that were asked for.
    pub fn servers(&self) -> Vec<(Flavor, usize)> {
        let of = |setting: &Setting| (setting.flavor, setting.workers);
        let first = self.settings.first().map(|setting| setting.layout);
        self.settings.iter().filter(|setting| Some(setting.layout) == first).map(of).collect()
    }

    /// The command that repeats one round.
    pub fn command(&self, seed: u64, setting: Setting) -> String {
        let Setting { flavor, workers, layout, .. } = setting;
        let seconds = self.round.as_secs() + 1;
        let mut command = format!(
            "make hostile HOSTILE_SEED={seed} HOSTILE_SERVER={} HOSTILE_WORKERS={workers} HOSTILE_LAYOUT={} \
             HOSTILE_SECONDS={seconds}",
            flavor.name(),
            name(&layout)
        );
        if self.kinds.len() < Kind::ALL.len() {
            let kinds: Vec<_> = self.kinds.iter().map(name).collect();
            command.push_str(&format!(" HOSTILE_KINDS={}", kinds.join(",")));
        }
        command
    }
}

fn name(value: &impl std::fmt::Debug) -> String {
    format!("{value:?}").to_lowercase()
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

fn number(name: &str) -> Result<Option<u64>, String> {
    let parse = |text: String| text.parse().map_err(|_| format!("{name} must be a number, not {text:?}"));
    variable(name).map(parse).transpose()
}

/// Those that the variable names, separated by commas; all if it names none.
fn choice<T: Copy>(variable_name: &str, all: &[T], name: impl Fn(&T) -> String) -> Result<Vec<T>, String> {
    let Some(text) = variable(variable_name) else { return Ok(all.to_vec()) };
    let find = |word: &str| {
        let names: Vec<_> = all.iter().map(&name).collect();
        let found = all.iter().find(|value| name(value) == word).copied();
        found.ok_or_else(|| format!("{variable_name} must be of {}, not {word:?}", names.join(", ")))
    };
    text.split(',').map(find).collect()
}
