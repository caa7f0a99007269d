//! One server, what stands behind respgate, the respgates in front of it, and the sessions that are run with both.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use fastrand::Rng;
use respgate::command::TABLE;
use tempfile::TempDir;

use crate::behind::{Behind, Layout};
use crate::compare::{Comparator, Sought};
use crate::direct::{self, spec};
use crate::requests::Maker;
use crate::rules::all_rules;
use crate::session::{Session, Step, script};
use crate::shrink;
use crate::slots::gather;
use crate::support::port::free_port;
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;
use crate::themes;
use crate::through::{self, Difference, End, Target};
use crate::vocabulary::Vocabulary;
use crate::wire::{Address, Wire};

/// Sessions that one respgate process serves: what one leaves behind shows in a later one.
const SESSIONS_OF_A_PROCESS: u64 = 150;
/// How long respgate may take for what the server does at once.
const PATIENCE: Duration = Duration::from_secs(4);
/// The same while a failing case is made smaller, when it is often in vain.
const SHORT_PATIENCE: Duration = Duration::from_millis(1500);
/// How long the requests of clients that have left may take to run.
const GONE: Duration = Duration::from_secs(1);

/// `admin-commands` of respgate's listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminLevel {
    Deny,
    ReadOnly,
    Allow,
}

impl AdminLevel {
    pub const ALL: [Self; 3] = [Self::Deny, Self::ReadOnly, Self::Allow];

    /// Returns the level as the configuration file spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::ReadOnly => "read-only",
            Self::Allow => "allow",
        }
    }
}

/// How respgate is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setup {
    pub workers: usize,
    pub admin: AdminLevel,
}

impl Setup {
    /// Returns the setup of respgate process number `process`. Six processes in a row cover every setup.
    fn of(process: u64) -> Self {
        let level = (process / 2) as usize % AdminLevel::ALL.len();
        Self { workers: 1 + (process % 2) as usize, admin: AdminLevel::ALL[level] }
    }
}

/// What one lane did.
pub struct Report {
    pub sessions: u64,
    pub parted: u64,
    pub commands: u64,
    /// For each row of the table, how often it was drawn.
    pub rows: Vec<u64>,
    /// For each rule, how often it was needed.
    pub rules: Vec<u64>,
    /// Faults by their signature.
    pub faults: BTreeMap<String, Fault>,
}

/// A difference that no rule covers.
pub struct Fault {
    pub times: u64,
    pub difference: Difference,
    pub setup: Setup,
    /// The smallest case found; `None` if the fault did not appear again.
    pub case: Option<Vec<Session>>,
    /// The session that showed the fault first, as a script.
    pub script: String,
    /// The number of that session, from which it is drawn together with the seed.
    pub session: u64,
}

pub struct Lane {
    flavor: Flavor,
    layout: Layout,
    seed: u64,
    /// How long a failing case may be made smaller.
    shrink: Duration,
    patience: Duration,
    server: Server,
    control: Wire,
    behind: Behind,
    words: Vocabulary,
    folder: TempDir,
    /// Connections are counted, so that no two processes' sockets have one name.
    processes: u64,
    pub report: Report,
}

struct Process {
    target: Target,
    proxy: Proxy,
}

impl Lane {
    pub fn start(flavor: Flavor, layout: Layout, seed: u64, shrink: Duration) -> Self {
        // A cluster has one database.
        let databases = if layout == Layout::Cluster { "1" } else { "16" };
        let server = Server::start_with(flavor, &["--hz", "100", "--databases", databases]);
        let mut control = Wire::connect(&Address::Unix(server.socket())).expect("a connection to the server");
        let words = Vocabulary::read(&mut control);
        let behind = match layout {
            Layout::Server => Behind::server(&server.socket()),
            Layout::Cluster => Behind::cluster(flavor, &mut control),
        };
        let report = Report {
            sessions: 0,
            parted: 0,
            commands: 0,
            rows: vec![0; TABLE.len()],
            rules: vec![0; all_rules().count()],
            faults: BTreeMap::new(),
        };
        let folder = TempDir::new().expect("a temporary folder");
        Self {
            flavor,
            layout,
            seed,
            shrink,
            patience: PATIENCE,
            server,
            control,
            behind,
            words,
            folder,
            processes: 0,
            report,
        }
    }

    /// Which server it is, and what stands behind respgate.
    pub fn name(&self) -> String {
        match self.layout {
            Layout::Server => self.flavor.name().to_owned(),
            Layout::Cluster => format!("{} cluster", self.flavor.name()),
        }
    }

    /// Runs sessions until the time is over.
    pub fn run(&mut self, until: Instant) {
        let mut number = 0;
        while Instant::now() < until {
            let process = number / SESSIONS_OF_A_PROCESS;
            let end = (process + 1) * SESSIONS_OF_A_PROCESS;
            number = self.run_process(Setup::of(process), number..end, until);
        }
    }

    /// Runs these sessions, and makes a case of the first difference.
    pub fn run_script(&mut self, case: &[Session], setup: Setup) {
        let failed = self.fails(case, setup, "");
        if let Some(difference) = failed {
            self.investigate(case, setup, difference, 0);
        }
        self.report.sessions += case.len() as u64;
    }

    /// Runs sessions with one respgate process, up to the first that shows a fault: what that did to the process is not
    /// known. Gives the number of the next session.
    fn run_process(&mut self, setup: Setup, numbers: Range<u64>, until: Instant) -> u64 {
        let running = self.process(setup);
        let mut history: Vec<Session> = Vec::new();
        for number in numbers.clone() {
            if Instant::now() >= until {
                return number;
            }
            let mut rng = Rng::with_seed(self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(number));
            let mut session = themes::draw(
                &Maker { words: &self.words, admin: setup.admin == AdminLevel::Allow },
                &mut rng,
            );
            // Half of the sessions have keys that one command may name together.
            if self.layout == Layout::Cluster && rng.bool() {
                gather(&mut session, &rng.u8(..20).to_string());
            }
            self.count(&session);
            let ended = self.session(&running, setup, &session, None);
            self.report.sessions += 1;
            history.push(session);
            match ended {
                Ok(End::Whole) => {}
                Ok(End::Parted) => self.report.parted += 1,
                Err(difference) => {
                    let known = self.report.faults.get_mut(&difference.signature());
                    if let Some(fault) = known {
                        fault.times += 1;
                    } else {
                        println!("{} session {number}, {setup:?}: {difference}\n", self.name());
                        drop(running);
                        self.investigate(&history, setup, difference, number);
                    }
                    return number + 1;
                }
            }
        }
        numbers.end
    }

    /// Finds the smallest case that shows the same fault, in a new process each time.
    fn investigate(&mut self, history: &[Session], setup: Setup, difference: Difference, session: u64) {
        let signature = difference.signature();
        let until = Instant::now() + self.shrink;
        let alone = &history[history.len() - 1..];
        let same = |lane: &mut Self, case: &[Session]| {
            lane.fails(case, setup, &signature).is_some_and(|other| other.signature() == signature)
        };
        let start = [alone, alone, history].into_iter().find(|case| same(self, case));
        self.patience = SHORT_PATIENCE;
        let case = start.map(|case| shrink::smallest(case, until, |case| same(self, case)));
        self.patience = PATIENCE;
        match &case {
            Some(case) => println!("# {} {setup:?}: {signature}\n{}", self.name(), script(case)),
            None => println!("# {} {setup:?}: not again: {signature}\n", self.name()),
        }
        let script = script(alone);
        self.report.faults.insert(signature, Fault { times: 1, difference, setup, case, script, session });
    }

    /// The first difference, with a respgate of its own; if it has a signature, the first that may be the same.
    fn fails(&mut self, case: &[Session], setup: Setup, signature: &str) -> Option<Difference> {
        let running = self.process(setup);
        case.iter().find_map(|session| self.session(&running, setup, session, Some(signature)).err())
    }

    /// One session, both ways. `sought`: the signature of the difference that is looked for, or nothing for any; none: any
    /// that is not known yet.
    fn session(
        &mut self,
        process: &Process,
        setup: Setup,
        session: &Session,
        sought: Option<&str>,
    ) -> Result<End, Difference> {
        let target = &process.target;
        self.reset();
        let address = Address::Unix(self.server.socket());
        let before = self.connections();
        let trace = direct::play(&address, &mut self.control, session);
        // A client that has left may have sent requests that have not run, and whose replies it muted. respgate may have
        // opened a connection meanwhile, which stays: so this does not wait for long.
        let deadline = Instant::now() + GONE;
        while self.connections() > before && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.reset();
        forget_scripts(target);
        let Report { rules, faults, .. } = &mut self.report;
        let sought = match sought {
            None => Sought::New(faults),
            Some("") => Sought::Any,
            Some(signature) => Sought::Only(signature),
        };
        let mut comparator =
            Comparator::new(self.flavor, self.layout, setup.admin, session.unix.len(), rules, sought);
        let ended = through::play(target, &mut self.behind, session, &trace, &mut comparator, self.patience);
        wait::until("respgate to run what clients have sent", || {
            process.proxy.metric("respgate_clients", &[]) == 0.0
        });
        ended
    }

    /// Number of connections that the server has.
    fn connections(&mut self) -> usize {
        self.control.ask_text(&["CLIENT", "LIST"]).lines().count()
    }

    /// The servers as they were at their start, as far as sessions can tell.
    fn reset(&mut self) {
        const RESET: &[&[&str]] = &[
            &["FLUSHALL", "SYNC"],
            &["SCRIPT", "FLUSH", "SYNC"],
            &["FUNCTION", "FLUSH", "SYNC"],
            &["CONFIG", "RESETSTAT"],
        ];
        self.control.ask_all(RESET);
        if self.layout == Layout::Cluster {
            self.behind.tell_each(RESET);
        }
    }

    fn process(&mut self, setup: Setup) -> Process {
        self.processes += 1;
        let (port, socket) = (free_port(), self.folder.path().join(self.processes.to_string()));
        let admin = setup.admin.name();
        let split = if self.layout == Layout::Cluster && setup.workers == 2 {
            "cross-slot-writes = \"split\"\n"
        } else {
            ""
        };
        let toml = format!(
            "drain-timeout = \"1s\"\n\
             [listeners.tcp]\naddress = \"127.0.0.1:{port}\"\nadmin-commands = \"{admin}\"\n\
             [listeners.unix]\naddress = \"unix:{}\"\nadmin-commands = \"{admin}\"\n\
             [upstreams.main]\n{}\n{split}",
            socket.display(),
            self.behind.upstream()
        );
        let mut proxy = Proxy::start_file(setup.workers, &toml);
        // What scripts and odd requests make respgate say is not looked at.
        proxy.allow_log("\"WARN\"");
        proxy.allow_log("\"ERROR\"");
        let tcp = Address::Tcp(([127, 0, 0, 1], port).into());
        Process { target: Target { tcp, unix: Address::Unix(socket) }, proxy }
    }

    fn count(&mut self, session: &Session) {
        self.report.commands += session.commands() as u64;
        let requests = session.steps.iter().flat_map(|step| match step {
            Step::Send { requests, .. } => requests.as_slice(),
            Step::Bulk { request, .. } | Step::Hit { request, .. } => std::slice::from_ref(request),
            Step::Leave { .. } => &[],
        });
        for spec in requests.filter_map(spec) {
            self.report.rows[usize::from(spec.row)] += 1;
        }
    }
}

/// respgate remembers scripts, for a primary that does not know them. The server's own SCRIPT FLUSH is not seen by it.
fn forget_scripts(target: &Target) {
    let mut wire = Wire::connect(&target.unix).expect("respgate to take a connection");
    wire.ask(&["SCRIPT", "FLUSH", "SYNC"]);
}
