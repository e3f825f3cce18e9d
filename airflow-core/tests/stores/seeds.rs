//! Random operations, as numbers that pick from what is possible when they happen.

use proptest::collection::vec;
use proptest::prelude::*;

use super::processes::{self, ProcessOp};

/// A change of one unit. Numbers pick one of what is possible then.
#[derive(Debug, Clone)]
pub(super) struct UnitSeed {
    pub(super) run: u8,
    pub(super) by_user: bool,
    /// Added to the generation: mostly nothing.
    pub(super) generation: u32,
    pub(super) run_event: Option<u8>,
    pub(super) tis: Vec<(u8, i8, u8, u32)>,
    pub(super) expansion: Option<u32>,
    pub(super) clear: bool,
    pub(super) xcoms: Vec<(u8, u8)>,
    pub(super) starts: Vec<(u8, u8, u8, bool)>,
    pub(super) ends: Vec<(u8, u8)>,
    pub(super) slots: Vec<(u8, i64, Option<i64>)>,
    pub(super) asset_events: Vec<(u8, u8, bool)>,
    /// Of each change of an instance: the process that is to tell of it.
    pub(super) notices: Option<u8>,
}

/// Numbers of a dag, a name, a type, a date, and how far the timetable comes: not at all, or to a day or its end.
#[derive(Debug, Clone, Copy)]
pub(super) struct RunSeed {
    pub(super) dag: u8,
    pub(super) name: u8,
    pub(super) kind: u8,
    pub(super) day: u8,
    pub(super) advances: bool,
    pub(super) next: Option<i64>,
}

#[derive(Debug, Clone)]
pub(super) enum Op {
    Sync { dag: u8, version: u8, next: Option<i64> },
    Create(Vec<RunSeed>),
    Commit(Vec<UnitSeed>),
    Pool { pool: u8, slots: i32, include_deferred: bool },
    DropPool(u8),
    SetXCom(u8, u8),
    DropXComs(u8, Option<u8>),
    DropRun(u8),
    DropDag(u8),
    Clean { seconds: i64, dry_run: bool },
    Pause(u8, bool),
    AssetEvents(Vec<(u8, u8, bool)>),
    Settle(u8, u8),
    Unqueue(Option<u8>, Option<u8>, Option<i64>),
    Watch(u8, WatchSeed),
    Process(ProcessOp),
}

/// Something that a process does with watchers.
#[derive(Debug, Clone, Copy)]
pub(super) enum WatchSeed {
    Claim,
    /// An event after the newest, or after so many more.
    Write(u8, u64),
    Note(u8, bool),
    End,
}

fn rarely(most: u32) -> impl Strategy<Value = u32> {
    prop_oneof![12 => Just(0_u32), 1 => 0..=most]
}

/// Numbers of an event, of its asset and whether it comes under an alias.
fn asset_events(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<(u8, u8, bool)>> {
    vec((0..12_u8, 0..3_u8, any::<bool>()), count)
}

fn unit_seed() -> impl Strategy<Value = UnitSeed> {
    let ti = (0..3_u8, -1..1_i8, any::<u8>(), rarely(2));
    let head = (any::<u8>(), prop::bool::weighted(0.1), rarely(1), prop::option::weighted(0.2, any::<u8>()));
    let rows = (vec(ti, 0..4), prop::option::weighted(0.1, 0..5_u32), prop::bool::weighted(0.1));
    let values = (
        vec((0..3_u8, 0..3_u8), 0..2),
        vec((0..12_u8, 0..3_u8, 1..4_u8, any::<bool>()), 0..2),
        vec((0..12_u8, any::<u8>()), 0..2),
        vec((0..9_u8, -2..4_i64, prop::option::of(-1..5_i64)), 0..3),
        (asset_events(0..2), prop::option::weighted(0.3, 0..4_u8)),
    );
    (head, rows, values).prop_map(|(head, rows, values)| {
        let (run, by_user, generation, run_event) = head;
        let (tis, expansion, clear) = rows;
        let (xcoms, starts, ends, slots, (asset_events, notices)) = values;
        UnitSeed {
            run,
            by_user,
            generation,
            run_event,
            tis,
            expansion,
            clear,
            xcoms,
            starts,
            ends,
            slots,
            asset_events,
            notices,
        }
    })
}

fn watch_seed() -> impl Strategy<Value = WatchSeed> {
    prop_oneof![
        5 => Just(WatchSeed::Claim),
        8 => (any::<u8>(), prop_oneof![9 => Just(0_u64), 1 => Just(1)]).prop_map(|(which, more)| WatchSeed::Write(which, more)),
        3 => (any::<u8>(), any::<bool>()).prop_map(|(which, fails)| WatchSeed::Note(which, fails)),
        1 => Just(WatchSeed::End),
    ]
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    let new_run = (0..2_u8, 0..5_u8, 0..4_u8, 0..4_u8, any::<bool>(), prop::option::of(0..5_i64))
        .prop_map(|(dag, name, kind, day, advances, next)| RunSeed { dag, name, kind, day, advances, next });
    prop_oneof![
        2 => (0..2_u8, 0..3_u8, prop::option::of(0..5_i64)).prop_map(|(dag, version, next)| Op::Sync { dag, version, next }),
        6 => vec(new_run, 1..4).prop_map(Op::Create),
        20 => vec(unit_seed(), 1..5).prop_map(Op::Commit),
        2 => (0..3_u8, -1..4_i32, any::<bool>()).prop_map(|(pool, slots, include_deferred)| Op::Pool { pool, slots, include_deferred }),
        1 => (0..3_u8).prop_map(Op::DropPool),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(run, value)| Op::SetXCom(run, value)),
        1 => (any::<u8>(), prop::option::of(0..3_u8)).prop_map(|(run, task)| Op::DropXComs(run, task)),
        1 => any::<u8>().prop_map(Op::DropRun),
        1 => (0..2_u8).prop_map(Op::DropDag),
        2 => (0..2_u8, any::<bool>()).prop_map(|(dag, paused)| Op::Pause(dag, paused)),
        4 => asset_events(1..3).prop_map(Op::AssetEvents),
        2 => (any::<u8>(), 0..3_u8).prop_map(|(deadline, how)| Op::Settle(deadline, how)),
        1 => (prop::option::of(0..2_u8), prop::option::of(0..2_u8), prop::option::of(97..101_i64))
            .prop_map(|(dag, asset, until)| Op::Unqueue(dag, asset, until)),
        6 => (0..3_u8, watch_seed()).prop_map(|(process, seed)| Op::Watch(process, seed)),
        1 => (0..100_i64, any::<bool>()).prop_map(|(seconds, dry_run)| Op::Clean { seconds, dry_run }),
        25 => processes::op().prop_map(Op::Process),
    ]
}
