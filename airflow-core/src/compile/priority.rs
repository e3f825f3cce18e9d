//! Priorities of all tasks of a dag at once.
//!
//! The rule `downstream` adds the weight of every task that can be reached, each once. Adding up neighbours would
//! count diamonds twice, and a set for each task would need memory that grows with the square of the dag. So targets
//! are taken in blocks of [`BLOCK`]: one pass over the edges finds, for every task, which targets of the block it
//! reaches, as bits.

use crate::id::TaskIdx;
use crate::trigger_rule::WeightRule;

use super::CompiledDag;

/// Targets of one pass: wide enough to make passes few, narrow enough to stay in the cache.
const BLOCK: usize = 256;
const WORDS: usize = BLOCK / 64;

type Bits = [u64; WORDS];

pub(super) fn weights(dag: &CompiledDag) -> Vec<i32> {
    let own: Vec<i64> = dag.tasks.iter().map(|task| i64::from(task.settings.priority_weight)).collect();
    let has = |rule| dag.tasks.iter().any(|task| task.settings.weight_rule == rule);
    let down = has(WeightRule::Downstream).then(|| reach_sums(dag, &own, true));
    let up = has(WeightRule::Upstream).then(|| reach_sums(dag, &own, false));
    let total = |(index, task): (usize, &super::CompiledTask)| {
        let relatives = match task.settings.weight_rule {
            WeightRule::Absolute => 0,
            WeightRule::Downstream => down.as_ref().map_or(0, |sums| sums[index]),
            WeightRule::Upstream => up.as_ref().map_or(0, |sums| sums[index]),
        };
        let sum = own[index] + relatives;
        i32::try_from(sum).unwrap_or(if sum < 0 { i32::MIN } else { i32::MAX })
    };
    dag.tasks.iter().enumerate().map(total).collect()
}

/// For each task the sum of `own` over all tasks after it (or before it).
fn reach_sums(dag: &CompiledDag, own: &[i64], downstream: bool) -> Vec<i64> {
    // Positions along the order, so that a task comes after everything it reaches.
    let order: Vec<TaskIdx> =
        if downstream { dag.order.iter().rev().copied().collect() } else { dag.order.clone() };
    let mut position = vec![0usize; order.len()];
    order.iter().enumerate().for_each(|(at, task)| position[task.index()] = at);
    let next = |task: TaskIdx| if downstream { &dag.task(task).downstream } else { &dag.task(task).upstream };
    let edges: Vec<Vec<usize>> =
        order.iter().map(|task| next(*task).iter().map(|other| position[other.index()]).collect()).collect();

    // A task with one neighbour reaches what the neighbour reaches, and the neighbour: chains need no bits.
    let mut sums = vec![0i64; order.len()];
    if edges.iter().all(|neighbours| neighbours.len() <= 1) {
        for at in 0..order.len() {
            sums[at] = edges[at].first().map_or(0, |other| sums[*other] + own[order[*other].index()]);
        }
    } else {
        block_sums(&order, &edges, own, &mut sums);
    }
    let mut by_task = vec![0i64; order.len()];
    order.iter().enumerate().for_each(|(at, task)| by_task[task.index()] = sums[at]);
    by_task
}

fn block_sums(order: &[TaskIdx], edges: &[Vec<usize>], own: &[i64], sums: &mut [i64]) {
    let mut reached: Vec<Bits> = vec![[0; WORDS]; order.len()];
    for start in (0..order.len()).step_by(BLOCK) {
        let end = (start + BLOCK).min(order.len());
        let targets: Vec<i64> = order[start..end].iter().map(|task| own[task.index()]).collect();
        let uniform = targets.iter().all(|weight| *weight == targets[0]).then_some(targets[0]);
        for at in start..order.len() {
            let mut bits: Bits = [0; WORDS];
            for other in edges[at].iter().copied().filter(|other| *other >= start) {
                bits.iter_mut().zip(&reached[other]).for_each(|(mine, theirs)| *mine |= theirs);
                if other < end {
                    bits[(other - start) / 64] |= 1 << ((other - start) % 64);
                }
            }
            reached[at] = bits;
            sums[at] = sums[at].saturating_add(weight_of(&bits, &targets, uniform));
        }
    }
}

fn weight_of(bits: &Bits, targets: &[i64], uniform: Option<i64>) -> i64 {
    let count: u32 = bits.iter().map(|word| word.count_ones()).sum();
    match uniform {
        Some(weight) => weight.saturating_mul(i64::from(count)),
        None => {
            (0..targets.len()).filter(|at| bits[at / 64] >> (at % 64) & 1 == 1).map(|at| targets[at]).sum()
        }
    }
}
