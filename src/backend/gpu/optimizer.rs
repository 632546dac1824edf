//! The optimizer's part of a training step on the GPU: its tables and its launches.

use super::schedule::{MemoryLayout, Slot};
use crate::backend::cpu::network::Network;
use crate::domain::params::ParameterGroup;
use crate::hardware::executor::{Cost, Launch};
use crate::layers::gpu::{LaunchBuilder, ScheduledLaunch, define};
use crate::optimizers::{self, MatrixArgument, MatrixGrid, MatrixRule, Rule};
use std::fmt::Write;

/// Numbers that a block of the optimizer updates.
pub const PIECE: usize = 1024;
/// Words of a `Piece` of pieces.cuh; the last is the factor of its learning rate.
pub const PIECE_WORDS: usize = 15;
/// Side of a tile of muon.cu.
const TILE: usize = 32;

/// The optimizer's launches and the tables that they read.
pub struct OptimizerSchedule {
    /// Each a `Piece` of pieces.cuh.
    pub pieces: Vec<u32>,
    /// Each a `Matrix` of muon.cu.
    pub matrices: Vec<u32>,
    /// The end of a training step.
    pub training: Vec<ScheduledLaunch>,
    /// The packing of all weights.
    pub packing: ScheduledLaunch,
    /// The exchange of the weights and their average, if there is one. The weights must be packed after it.
    pub swapping: Option<ScheduledLaunch>,
    /// Where the sums of squares of the gradients are.
    pub squares: usize,
}

impl OptimizerSchedule {
    /// For the parameters at `slots` of a row of `row` numbers, after the backward pass has been added to `b`. Adds its tables to the layout.
    pub fn new(
        b: &mut LaunchBuilder,
        network: &Network,
        (slots, row): (&[Slot], usize),
        layout: &mut MemoryLayout,
        running_len: usize,
    ) -> Self {
        let rule = network.spec.optimizer;
        let tables = Tables::new(b, network, slots, rule.filters.is_some());
        layout.pieces = b.allocate(4 * tables.pieces.len());
        layout.matrices = b.allocate(4 * tables.matrices.len());
        let counter = b.zeros(4);
        let squares = b.allocate(8 * b.square_count);
        let mut constants = String::new();
        define!(
            constants,
            UPDATE_ELEMENT = rule.cuda,
            ROW = row,
            SQUARES = b.square_count,
            RUNNING = running_len,
            STEPS = super::schedule::MAX_STEPS,
        );
        if let Some(filters) = rule.filters {
            define!(constants, UPDATE_FILTER = filters.cuda);
        }
        let mut training = Vec::new();
        // Of no matrices there is nothing to find.
        let (directions, weight_scales) = match rule.filters {
            Some(filters) if !tables.matrices.is_empty() => {
                find_directions(b, layout, &tables, filters, squares, row, &mut training)
            }
            _ => (0, 0),
        };
        let launch = |entry, blocks: usize, arguments: Vec<usize>| Launch {
            source: optimizers::CUDA,
            constants: constants.as_str().into(),
            entry,
            grid: [blocks as u32, 1, 1],
            block: 256,
            arguments: arguments.into_iter().map(Some).collect(),
            ..Launch::default()
        };
        // The packed weights are counted from the beginning of the memory.
        let pack = vec![layout.pieces, layout.weights, 0];
        let packing = launch("pack", tables.count + tables.fixed_count, pack);
        let packing = b.scheduled(packing, Cost::of_f32(row + tables.packed.0, 0));
        let swapping = layout.average.map(|average| {
            let numbers = row + running_len;
            let arguments = vec![layout.weights, layout.running, average];
            let swap = launch("swap_average", numbers.div_ceil(256), arguments);
            b.scheduled(swap, Cost::of_f32(4 * numbers, 0))
        });
        let mut update = launch(
            "update",
            tables.count,
            vec![
                layout.now,
                layout.steps,
                layout.state,
                layout.found,
                layout.pieces,
                layout.weights,
                layout.grads,
                layout.optimizer,
                squares,
                0,
                layout.running,
                layout.moved,
                counter,
                directions,
                weight_scales,
            ],
        );
        update.arguments.push(layout.average);
        let averaged = if layout.average.is_some() { 2 } else { 0 };
        let cost = tables.update_cost(rule, running_len, averaged);
        training.push(b.scheduled(update, cost));
        OptimizerSchedule {
            pieces: tables.pieces,
            matrices: tables.matrices,
            training,
            packing,
            swapping,
            squares,
        }
    }
}

/// The parameters as the optimizer's kernels see them.
struct Tables {
    /// Those of the parameters that are trained, then the others'.
    pieces: Vec<u32>,
    /// Number of pieces of trained parameters, and of the others.
    count: usize,
    fixed_count: usize,
    matrices: Vec<u32>,
    matrix_count: usize,
    /// The longest shorter side, and the longest side, of all matrices.
    small: usize,
    large: usize,
    /// Numbers of the square matrices of all matrices.
    squares: usize,
    /// Shorter and longer side of each matrix.
    sides: Vec<(usize, usize)>,
    /// Numbers of the trained parameters.
    trained: usize,
    /// Numbers of the packed copies of all parameters, and of the trained ones.
    packed: (usize, usize),
}

impl Tables {
    fn new(b: &LaunchBuilder, network: &Network, slots: &[Slot], has_matrices: bool) -> Self {
        let mut tables = Tables {
            pieces: Vec::new(),
            count: 0,
            fixed_count: 0,
            matrices: Vec::new(),
            matrix_count: 0,
            small: 0,
            large: 0,
            squares: 0,
            sides: Vec::new(),
            trained: 0,
            packed: (0, 0),
        };
        let (trained, fixed): (Vec<_>, Vec<_>) = slots
            .iter()
            .zip(network.params())
            .partition(|(slot, _)| slot.trained);
        for (slot, param) in trained.into_iter().chain(fixed) {
            let packing = b.packings.get(&slot.name).copied().unwrap_or_default();
            let count = slot.len.div_ceil(PIECE);
            let is_matrix = has_matrices && param.trained && param.group == ParameterGroup::Filters;
            if is_matrix {
                tables.add_matrix(slot, param.var.dims()[0], count);
            }
            let matrix = if is_matrix { tables.matrix_count } else { 0 };
            for begin in (0..slot.len).step_by(PIECE) {
                let end = (begin + PIECE).min(slot.len);
                let range = [slot.begin + begin, slot.begin + end, slot.begin];
                tables.pieces.extend(range.map(|v| v as u32));
                tables.pieces.extend([param.group as u32, matrix as u32]);
                tables.pieces.extend(packing);
                tables.pieces.push(1.0f32.to_bits());
            }
            // The last word is where the second copy begins.
            let copies = match packing {
                [0, ..] => 0,
                [.., 0] => 1,
                _ => 2,
            };
            tables.packed.0 += copies * slot.len;
            match param.trained {
                true => {
                    tables.count += count;
                    tables.trained += slot.len;
                    tables.packed.1 += copies * slot.len;
                }
                false => tables.fixed_count += count,
            }
        }
        tables
    }

    /// Adds a matrix of `rows` filters whose next `pieces` pieces follow.
    fn add_matrix(&mut self, slot: &Slot, rows: usize, pieces: usize) {
        let columns = slot.len / rows;
        let (small, large) = (rows.min(columns), rows.max(columns));
        let (row_stride, column_stride) = match rows > columns {
            true => (1, columns),
            false => (columns, 1),
        };
        let matrix = [
            slot.begin,
            rows,
            small,
            large,
            row_stride,
            column_stride,
            self.squares,
            self.count,
            pieces,
        ];
        self.matrices.extend(matrix.map(|v| v as u32));
        self.matrix_count += 1;
        self.sides.push((small, large));
        self.small = self.small.max(small);
        self.large = self.large.max(large);
        self.squares += small * small;
    }

    /// The cost of the kernel `update`, which reads and writes so many numbers of averages for each one.
    fn update_cost(&self, rule: &Rule, running_len: usize, averaged: usize) -> Cost {
        let matrices: usize = self.sides.iter().map(|(small, large)| small * large).sum();
        // A state tensor, like the weight, is read and written; a matrix has one, and its direction is read.
        let element = |slots: usize, flop: usize, count: usize| {
            Cost::of_f32(count * (3 + 2 * slots + averaged), count * flop)
        };
        let mut cost = element(rule.slots.len(), rule.flop, self.trained - matrices);
        if let Some(filters) = rule.filters {
            let of_matrices = element(1, filters.flop, matrices);
            cost.flop += of_matrices.flop;
            cost = cost.and_bytes(of_matrices.bytes as usize + 4 * matrices);
        }
        cost.and_bytes(4 * (self.packed.1 + running_len * (2 + averaged)))
    }
}

/// Adds the launches that find the directions in which the matrices move. Returns where the directions are, in a row like
/// that of the parameters, and the factors of the matrices' weights.
fn find_directions(
    b: &mut LaunchBuilder,
    layout: &MemoryLayout,
    tables: &Tables,
    rule: MatrixRule,
    squares: usize,
    row: usize,
    launches: &mut Vec<ScheduledLaunch>,
) -> (usize, usize) {
    let (first, second) = (b.allocate(4 * row), b.allocate(4 * row));
    let (products, polynomials) = (
        b.allocate(4 * tables.squares),
        b.allocate(4 * tables.squares),
    );
    let parts = b.allocate(16 * tables.count);
    let weight_scales = b.allocate(4 * tables.matrix_count);
    let mut constants = String::new();
    define!(
        constants,
        SQUARES = b.square_count,
        MATRICES = tables.matrix_count,
    );
    let offset = |argument: &MatrixArgument| {
        Some(match argument {
            MatrixArgument::Step => layout.now,
            MatrixArgument::Pieces => layout.pieces,
            MatrixArgument::Matrices => layout.matrices,
            MatrixArgument::Weights => layout.weights,
            MatrixArgument::Gradients => layout.grads,
            MatrixArgument::State => layout.optimizer,
            MatrixArgument::Squares => squares,
            MatrixArgument::First => first,
            MatrixArgument::Second => second,
            MatrixArgument::Parts => parts,
            MatrixArgument::Products => products,
            MatrixArgument::Polynomials => polynomials,
            MatrixArgument::WeightScales => weight_scales,
        })
    };
    let tiles = |side: usize| side.div_ceil(TILE) as u32;
    for launch in rule.launches {
        let costs = tables
            .sides
            .iter()
            .map(|&(small, large)| (launch.cost)(small, large));
        let cost = costs.fold(Cost::default(), |sum, cost| sum + cost);
        let launch = Launch {
            source: rule.source,
            constants: constants.as_str().into(),
            entry: launch.entry,
            grid: match launch.grid {
                MatrixGrid::Pieces => [tables.count as u32, 1, 1],
                MatrixGrid::Squares => {
                    let side = tiles(tables.small);
                    [side, side, tables.matrix_count as u32]
                }
                MatrixGrid::Matrices => {
                    let (small, large) = (tiles(tables.small), tiles(tables.large));
                    [large, small, tables.matrix_count as u32]
                }
            },
            block: 256,
            arguments: launch.arguments.iter().map(offset).collect(),
            ..Launch::default()
        };
        launches.push(b.scheduled(launch, cost));
    }
    (second, weight_scales)
}
