use proptest::prelude::*;

use super::super::reply::NodeClaim;
use super::*;
use crate::discovery::verify::Description;
use crate::topology::{Node, NodeId, Sign};

/// The number of slots that the simulated clusters use.
const USED: u16 = 12;

fn at(node: usize) -> Address {
    Address::tcp("node", u16::try_from(7000 + node).unwrap())
}

fn id(node: usize) -> ClusterNodeId {
    format!("node{node:04}").into()
}

/// A cluster whose nodes learn of each other's changes late.
struct Simulation {
    /// The newest state of each node.
    truth: Vec<NodeClaim>,
    /// What each node knows of all.
    known: Vec<Vec<NodeClaim>>,
    groups: usize,
    /// The groups that have served each slot, in order.
    served_by: Vec<Vec<usize>>,
}

impl Simulation {
    /// `groups` primaries with a replica each: node N and node N + groups.
    fn new(groups: usize) -> Self {
        let claim = |node: usize| NodeClaim {
            id: id(node),
            address: Some(at(node)),
            role: if node < groups { ClaimedRole::Primary } else { ClaimedRole::Replica(id(node - groups)) },
            epoch: (node % groups + 1) as u64,
            is_myself: false,
            has_failed: false,
            is_suspected: false,
            slots: Vec::new(),
            moving: Vec::new(),
        };
        let mut truth: Vec<NodeClaim> = (0..2 * groups).map(claim).collect();
        // Each group serves a slot at least.
        let used = USED.max(u16::try_from(groups).unwrap());
        for slot in 0..used {
            truth[usize::from(slot) % groups].slots.push(slot..=slot);
        }
        let known = vec![truth.clone(); 2 * groups];
        let served_by = (0..used).map(|slot| vec![usize::from(slot) % groups]).collect();
        Self { truth, known, groups, served_by }
    }

    fn epoch(&self) -> u64 {
        self.truth.iter().map(|claim| claim.epoch).max().unwrap_or(0)
    }

    fn primary_of(&self, group: usize) -> usize {
        [group, group + self.groups]
            .into_iter()
            .find(|node| self.truth[*node].role == ClaimedRole::Primary)
            .unwrap()
    }

    fn fail_over(&mut self, group: usize) {
        let former = self.primary_of(group);
        let newest = if former == group { group + self.groups } else { group };
        let epoch = self.epoch() + 1;
        let slots = std::mem::take(&mut self.truth[former].slots);
        (self.truth[newest].role, self.truth[newest].slots) = (ClaimedRole::Primary, slots);
        self.truth[former].role = ClaimedRole::Replica(id(newest));
        (self.truth[newest].epoch, self.truth[former].epoch) = (epoch, epoch);
        // The new primary has taken the slots over itself, and the former one steps down because it hears of that.
        for node in [former, newest] {
            self.speak(node, former);
            self.speak(node, newest);
        }
    }

    fn move_slot(&mut self, slot: u16, to_group: usize) {
        let to = self.primary_of(to_group);
        let epoch = self.epoch() + 1;
        let Some(from) = (0..self.truth.len()).find(|node| self.truth[*node].slots.contains(&(slot..=slot)))
        else {
            return;
        };
        if from == to {
            return;
        }
        self.truth[from].slots.retain(|range| *range != (slot..=slot));
        self.truth[to].slots.push(slot..=slot);
        self.truth[to].epoch = epoch;
        self.served_by[usize::from(slot)].push(to_group);
        for node in [from, to] {
            self.speak(node, from);
            self.speak(node, to);
        }
    }

    /// `hearer` learns the newest state of `of`.
    fn speak(&mut self, hearer: usize, of: usize) {
        self.known[hearer][of] = self.truth[of].clone();
    }

    /// What a node answers.
    fn view(&self, node: usize) -> ClusterView {
        let mut nodes = self.known[node].clone();
        nodes[node] = self.truth[node].clone();
        nodes[node].is_myself = true;
        ClusterView { nodes }
    }

    /// The answer of every node.
    fn round(&self) -> Vec<ClusterEvent> {
        let nodes = 0..self.truth.len();
        nodes.map(|node| ClusterEvent::Viewed { node: at(node), view: self.view(node) }).collect()
    }
}

/// A machine whose probes are answered at once.
struct Bench {
    machine: ClusterMachine,
    now: Instant,
    home: Topology,
    cluster: Arc<ClusterTopology>,
    /// The shard of each generation that was published, and the highest one of the home shard.
    generations: BTreeMap<u64, ShardNumber>,
    highest_home: u64,
    asks: usize,
    /// The number of answers in [`Self::pass`].
    questions: usize,
    /// The nodes that the last round asked, until they have answered.
    asked: Option<Option<Vec<Address>>>,
}

impl Bench {
    fn new(seeds: &[usize]) -> Self {
        let config = ClusterConfig::new(seeds.iter().map(|seed| at(*seed)).collect());
        let now = Instant::now();
        let mut bench = Self {
            machine: ClusterMachine::new(&config, Duration::from_secs(3), now),
            now,
            home: Topology::Unknown(Arc::new(Outage::Starting)),
            cluster: Arc::default(),
            generations: BTreeMap::new(),
            highest_home: 0,
            asks: 0,
            questions: 0,
            asked: None,
        };
        bench.event(ClusterEvent::Tick);
        bench
    }

    fn event(&mut self, event: ClusterEvent) {
        self.events(vec![event]);
    }

    /// Handles events that arrive together.
    fn events(&mut self, mut events: Vec<ClusterEvent>) {
        self.now += Duration::from_millis(1);
        while !events.is_empty() {
            for action in self.machine.handle(std::mem::take(&mut events), self.now) {
                match action {
                    ClusterAction::Probe { shard, ticket, address, anew: _ } => {
                        let id = NodeId(address.to_string().into());
                        let node = Some(Node { id, uptime: Duration::from_secs(9) });
                        let finding = Finding::Primary(Description { server: None, node });
                        events.push(ClusterEvent::Probed { shard, ticket, finding });
                    }
                    ClusterAction::Publish { home, cluster } => self.published(home, cluster),
                    ClusterAction::Ask(part) => {
                        self.asks += 1;
                        self.asked = Some(part);
                    }
                    _ => {}
                }
            }
        }
    }

    fn published(&mut self, home: Topology, cluster: Arc<ClusterTopology>) {
        for shard in &cluster.shards {
            if let Some(primary) = shard.topology.primary() {
                let owner = *self.generations.entry(primary.generation.0).or_insert(shard.number);
                assert_eq!(owner, shard.number, "a generation belongs to one shard");
                let former =
                    self.cluster.shard(shard.number).and_then(|known| known.topology.primary().cloned());
                if let Some(former) = former {
                    assert!(former.generation <= primary.generation, "generations rise");
                    assert!(former.generation < primary.generation || former.address == primary.address);
                }
            }
        }
        if let Some(primary) = home.primary() {
            assert!(primary.generation.0 >= self.highest_home, "the home shard's generations rise");
            self.highest_home = primary.generation.0;
        }
        (self.home, self.cluster) = (home, cluster);
    }

    fn hear(&mut self, node: usize, view: ClusterView) {
        self.event(ClusterEvent::Viewed { node: at(node), view });
    }

    fn primary(&self, slot: u16) -> Option<Address> {
        let number = self.cluster.slots.shard(Slot::new(slot)?)?;
        Some(self.cluster.shard(number)?.topology.primary()?.address.clone())
    }

    fn generation(&self, slot: u16) -> Generation {
        let number = self.cluster.slots.shard(Slot::new(slot).unwrap()).unwrap();
        self.cluster.shard(number).unwrap().topology.primary().unwrap().generation
    }
}

fn heard(simulation: &Simulation) -> Bench {
    let mut bench = Bench::new(&[0]);
    bench.hear(0, simulation.view(0));
    bench
}

#[test]
fn one_seed_shows_the_whole_cluster() {
    let bench = heard(&Simulation::new(3));
    assert_eq!(bench.cluster.shards.len(), 3);
    assert_eq!(
        (bench.primary(0), bench.primary(1), bench.primary(2)),
        (Some(at(0)), Some(at(1)), Some(at(2)))
    );
    assert_eq!(bench.primary(USED), None, "nobody serves that slot");
    let home = bench.cluster.home().unwrap();
    assert_eq!(home.topology.primary().unwrap().generation, bench.home.primary().unwrap().generation);
    assert!(bench.cluster.shards.iter().all(|shard| shard.replicas.len() == 1));
    assert_eq!(bench.cluster.epoch, 3);
}

#[test]
fn a_failover_gives_the_shard_a_new_generation_and_the_others_keep_theirs() {
    let mut simulation = Simulation::new(3);
    let mut bench = heard(&simulation);
    let before: Vec<Generation> = (0..3).map(|slot| bench.generation(slot)).collect();
    let numbers: Vec<ShardNumber> = bench.cluster.shards.iter().map(|shard| shard.number).collect();
    simulation.fail_over(1);
    bench.hear(4, simulation.view(4));
    assert_eq!(bench.primary(1), Some(at(4)));
    assert!(bench.generation(1) > before[1]);
    assert_eq!((bench.generation(0), bench.generation(2)), (before[0], before[2]));
    assert_eq!(bench.cluster.shards.iter().map(|shard| shard.number).collect::<Vec<_>>(), numbers);
    // What node 0 has not learned yet does not count.
    bench.hear(0, simulation.view(0));
    assert_eq!(bench.primary(1), Some(at(4)));
}

#[test]
fn answers_that_arrive_together_are_published_once() {
    let mut simulation = Simulation::new(3);
    let mut bench = heard(&simulation);
    simulation.move_slot(0, 1);
    simulation.move_slot(3, 2);
    let actions = bench.machine.handle(simulation.round(), bench.now);
    let published = actions.iter().filter(|action| matches!(action, ClusterAction::Publish { .. })).count();
    assert_eq!(published, 1);
    bench.event(ClusterEvent::Tick);
    assert_eq!(
        bench.machine.slots.shard(Slot::new(0).unwrap()),
        bench.cluster.slots.shard(Slot::new(1).unwrap())
    );
    assert_eq!(
        bench.machine.slots.shard(Slot::new(3).unwrap()),
        bench.cluster.slots.shard(Slot::new(2).unwrap())
    );
}

#[test]
fn a_redirect_to_a_new_node_has_it_asked_once_the_cluster_knows_it() {
    let mut simulation = Simulation::new(3);
    let mut bench = heard(&simulation);
    let asks = bench.asks;
    let hint = Hint::Moved { slot: Slot::new(1).unwrap(), to: at(9) };
    for _ in 0..100 {
        bench.event(ClusterEvent::Hinted(hint.clone()));
    }
    let is_asked = |bench: &Bench| bench.machine.status().asked.iter().any(|node| node.address == at(9));
    assert!(!is_asked(&bench), "a script may have forged the redirect");
    assert!(bench.asks - asks <= 5, "{} rounds", bench.asks - asks);
    simulation.truth.push(NodeClaim { id: id(9), address: Some(at(9)), ..simulation.truth[0].clone() });
    let newcomer = NodeClaim { slots: vec![1..=1], epoch: 9, is_myself: true, ..simulation.truth[6].clone() };
    let mut nodes = simulation.view(0).nodes;
    nodes.iter_mut().for_each(|claim| claim.is_myself = false);
    nodes.push(NodeClaim { is_myself: false, ..newcomer.clone() });
    bench.hear(0, ClusterView { nodes: nodes.clone() });
    assert!(is_asked(&bench));
    nodes.pop();
    nodes.push(newcomer);
    bench.hear(9, ClusterView { nodes });
    assert_eq!(bench.primary(1), Some(at(9)));
    assert_eq!(bench.cluster.shards.len(), 4);
}

#[test]
fn a_redirect_that_is_known_already_causes_nothing() {
    let mut bench = heard(&Simulation::new(3));
    bench.now += Duration::from_millis(300);
    bench.event(ClusterEvent::Tick);
    let asks = bench.asks;
    bench.event(ClusterEvent::Hinted(Hint::Moved { slot: Slot::new(1).unwrap(), to: at(1) }));
    bench.now += Duration::from_millis(100);
    bench.event(ClusterEvent::Tick);
    assert_eq!((bench.asks, bench.machine.status().redirect_hints), (asks, 0));
}

#[test]
fn most_nodes_find_that_a_primary_has_failed() {
    let mut simulation = Simulation::new(3);
    let mut bench = heard(&simulation);
    simulation.truth[1].has_failed = true;
    for node in [0, 2, 4] {
        simulation.speak(node, 1);
        bench.hear(node, simulation.view(node));
    }
    let failing: Vec<bool> = bench
        .cluster
        .shards
        .iter()
        .map(|shard| matches!(shard.topology, Topology::Failing(_, Sign::Down)))
        .collect();
    assert_eq!(failing.iter().filter(|failing| **failing).count(), 1);
    assert!(bench.machine.status().asked.iter().any(|node| node.address == at(4)), "its replica is asked");
}

#[test]
fn a_hint_reaches_the_shard_of_its_generation() {
    let mut bench = heard(&Simulation::new(3));
    let generation = bench.generation(2);
    assert_eq!(bench.machine.shard_of(generation), bench.cluster.slots.shard(Slot::new(2).unwrap()));
    assert_eq!(bench.machine.shard_of(Generation(77)), None);
    let asks = bench.asks;
    bench.now += Duration::from_millis(200);
    bench.event(ClusterEvent::Hinted(Hint::ClusterDown(generation)));
    bench.now += Duration::from_millis(10);
    bench.event(ClusterEvent::Tick);
    assert_eq!(bench.asks, asks + 1);
}

#[test]
fn a_server_without_a_cluster_is_named() {
    let mut bench = Bench::new(&[0]);
    let error = NodeError::NoCluster("node:7000 is no node of a cluster".into());
    bench.event(ClusterEvent::Failed { node: at(0), error });
    assert!(
        matches!(&bench.home, Topology::Unknown(why) if why.to_string().contains("no node of a cluster")),
        "{:?}",
        bench.home
    );
}

/// A change of the simulated cluster, or news of it.
#[derive(Clone, Debug)]
enum Step {
    FailOver(usize),
    Move(u16, usize),
    /// One node learns of another.
    Gossip(usize, usize),
    /// A node answers discovery.
    Answer(usize),
    /// All nodes answer together.
    Round,
    Lost(u16),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (0..3_usize).prop_map(Step::FailOver),
        2 => (0..USED, 0..3_usize).prop_map(|(slot, to)| Step::Move(slot, to)),
        5 => (0..6_usize, 0..6_usize).prop_map(|(hearer, of)| Step::Gossip(hearer, of)),
        8 => (0..6_usize).prop_map(Step::Answer),
        2 => Just(Step::Round),
        1 => (0..USED).prop_map(Step::Lost),
        1 => (1..40_u64).prop_map(Step::Wait),
    ]
}

proptest! {
    /// Whatever the order of changes, gossip and answers: a shard keeps its number and its nodes, generations rise (see
    /// [`Bench::published`]), no slot goes back to a shard that served it earlier, and in the end every slot is where it is.
    #[test]
    fn the_table_follows_the_newest_claims(steps in prop::collection::vec(step(), 1..60)) {
        let mut simulation = Simulation::new(3);
        let mut bench = heard(&simulation);
        let group_of = |address: &Address| (0..6).find(|node| at(*node) == *address).map(|node| node % 3);
        let groups: BTreeMap<ShardNumber, Option<usize>> = bench
            .cluster
            .shards
            .iter()
            .map(|shard| (shard.number, group_of(&shard.topology.primary().unwrap().address)))
            .collect();
        let mut newest = [0_usize; USED as usize];
        for step in steps {
            match step {
                Step::FailOver(group) => simulation.fail_over(group),
                Step::Move(slot, to) => simulation.move_slot(slot, to),
                Step::Gossip(hearer, of) => simulation.speak(hearer, of),
                Step::Answer(node) => bench.hear(node, simulation.view(node)),
                Step::Round => bench.events(simulation.round()),
                Step::Lost(slot) => {
                    if let Some(number) = bench.cluster.slots.shard(Slot::new(slot).unwrap())
                        && let Some(primary) = bench.cluster.shard(number).unwrap().topology.primary()
                    {
                        let generation = primary.generation;
                        bench.event(ClusterEvent::Hinted(Hint::Lost(generation)));
                    }
                }
                Step::Wait(milliseconds) => {
                    bench.now += Duration::from_millis(milliseconds);
                    bench.event(ClusterEvent::Tick);
                }
            }
            for shard in &bench.cluster.shards {
                if let Some(primary) = shard.topology.primary() {
                    prop_assert_eq!(groups.get(&shard.number).copied(), Some(group_of(&primary.address)));
                }
            }
            for slot in 0..USED {
                let Some(number) = bench.cluster.slots.shard(Slot::new(slot).unwrap()) else { continue };
                let group = groups.get(&number).copied().flatten();
                let (served_by, newest) = (&simulation.served_by[usize::from(slot)], &mut newest[usize::from(slot)]);
                let since = served_by[*newest..].iter().position(|served| Some(*served) == group);
                prop_assert!(since.is_some(), "slot {} went back to {:?} in {:?} from {}", slot, group, served_by, newest);
                *newest += since.unwrap_or(0);
            }
        }
        for node in 0..6 {
            (0..6).for_each(|of| simulation.speak(node, of));
            bench.hear(node, simulation.view(node));
        }
        for slot in 0..USED {
            let owner = (0..6).find(|node| simulation.truth[*node].slots.contains(&(slot..=slot))).unwrap();
            prop_assert_eq!(bench.primary(slot), Some(at(owner)), "slot {}", slot);
        }
    }
}

/// The number of groups of a cluster whose nodes are asked in turn.
const MANY: usize = 40;

impl Bench {
    /// Lets `time` pass, in which each node that is asked answers.
    fn pass(&mut self, simulation: &Simulation, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now = self.machine.wake_at().clamp(self.now, end);
            self.event(ClusterEvent::Tick);
            let tracked: Vec<Address> =
                self.machine.status().asked.iter().map(|node| node.address.clone()).collect();
            let asked = self.asked.take().map(|part| part.unwrap_or(tracked)).unwrap_or_default();
            let answers = asked.into_iter().filter_map(|address| {
                let node = (0..simulation.truth.len()).find(|node| at(*node) == address)?;
                Some(ClusterEvent::Viewed { node: address, view: simulation.view(node) })
            });
            let answers: Vec<ClusterEvent> = answers.collect();
            self.questions += answers.len();
            self.events(answers);
        }
    }
}

/// Lets the nodes of a large cluster be asked in turn.
fn in_turn(simulation: &Simulation) -> Bench {
    let mut bench = heard(simulation);
    bench.pass(simulation, Duration::from_secs(5));
    bench.questions = 0;
    bench
}

#[test]
fn a_large_cluster_is_asked_in_turn_until_something_changes() {
    let mut simulation = Simulation::new(MANY);
    let mut bench = in_turn(&simulation);
    bench.pass(&simulation, Duration::from_secs(20));
    assert!((19 * 8..=24 * 8).contains(&bench.questions), "{} questions in 20 s", bench.questions);
    // A node that is asked knows of a failover.
    simulation.fail_over(1);
    bench.pass(&simulation, Duration::from_secs(10));
    assert_eq!(bench.primary(1), Some(at(1 + MANY)));
    // A redirect has all asked at once.
    bench.questions = 0;
    bench.event(ClusterEvent::Hinted(Hint::Moved { slot: Slot::new(3).unwrap(), to: at(77) }));
    bench.pass(&simulation, Duration::from_millis(50));
    assert!(bench.questions >= 32, "{} questions", bench.questions);
}

#[test]
fn a_few_nodes_of_a_large_cluster_decide_no_failure() {
    let mut simulation = Simulation::new(MANY);
    let mut bench = in_turn(&simulation);
    let asked: Vec<Address> = bench.machine.status().asked.iter().map(|node| node.address.clone()).collect();
    let nodes: Vec<usize> = (0..MANY).filter(|node| asked.contains(&at(*node))).collect();
    assert_eq!(nodes.len(), 32);
    let failed = |bench: &Bench| {
        let number = bench.cluster.slots.shard(Slot::new(0).unwrap()).unwrap();
        matches!(bench.cluster.shard(number).unwrap().topology, Topology::Failing(..))
    };
    // Less than half of the asked nodes find that node 0 has failed, and more than a round asks.
    for node in &nodes[1..=12] {
        (simulation.known[*node][0].has_failed, simulation.known[*node][0].is_suspected) = (true, true);
    }
    bench.pass(&simulation, Duration::from_secs(20));
    assert!(!failed(&bench));
    assert!(bench.questions >= 18 * 32, "all are asked: {} questions in 20 s", bench.questions);
    for node in &nodes[13..=20] {
        (simulation.known[*node][0].has_failed, simulation.known[*node][0].is_suspected) = (true, true);
    }
    bench.pass(&simulation, Duration::from_secs(2));
    assert!(failed(&bench));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// In turn too, no slot goes back to a shard that served it earlier, and every change is found within a few rounds once the asked
    /// nodes know it.
    #[test]
    fn a_large_cluster_is_followed_in_turn(
        steps in prop::collection::vec((0_usize..3, 0_usize..MANY, 0_usize..MANY, 0_u64..3_000), 1..12)
    ) {
        let mut simulation = Simulation::new(MANY);
        let mut bench = in_turn(&simulation);
        let group_of = |address: &Address| (0..2 * MANY).find(|node| at(*node) == *address).map(|node| node % MANY);
        let mut newest = [0_usize; MANY];
        for (step, one, other, milliseconds) in steps {
            match step {
                0 => simulation.fail_over(one),
                1 => simulation.move_slot(u16::try_from(one).unwrap(), other),
                _ => (0..MANY).for_each(|of| simulation.speak(one, of)),
            }
            bench.pass(&simulation, Duration::from_millis(milliseconds));
            for slot in 0..MANY {
                let group = bench.primary(u16::try_from(slot).unwrap()).as_ref().and_then(group_of);
                let Some(group) = group else { continue };
                let served_by = &simulation.served_by[slot];
                let since = served_by[newest[slot]..].iter().position(|served| *served == group);
                prop_assert!(since.is_some(), "slot {} went back to {} in {:?} from {}", slot, group, served_by, newest[slot]);
                newest[slot] += since.unwrap_or(0);
            }
        }
        for node in 0..2 * MANY {
            (0..2 * MANY).for_each(|of| simulation.speak(node, of));
        }
        bench.pass(&simulation, Duration::from_secs(7));
        for slot in 0..MANY {
            let slot = u16::try_from(slot).unwrap();
            let owner = (0..2 * MANY).find(|node| simulation.truth[*node].slots.contains(&(slot..=slot))).unwrap();
            prop_assert_eq!(bench.primary(slot), Some(at(owner)), "slot {}", slot);
        }
    }
}
