//! The optimizer's part of a training step on the GPU: its tables and its launches.

use super::schedule::{MemoryLayout, Slot};
use crate::backend::cpu::network::Network;
use crate::domain::params::ParameterGroup;
use crate::hardware::executor::Launch;
use crate::layers::gpu::{LaunchBuilder, define};
use crate::optimizers::{self, MatrixArgument, MatrixGrid, MatrixRule};
use std::fmt::Write;

/// Numbers that a block of the optimizer updates.
const PIECE: usize = 1024;
/// Side of a tile of muon.cu.
const TILE: usize = 32;

/// The optimizer's launches and the tables that they read.
pub struct OptimizerSchedule {
    /// Each a `Piece` of pieces.cuh.
    pub pieces: Vec<u32>,
    /// Each a `Matrix` of muon.cu.
    pub matrices: Vec<u32>,
    /// The end of a training step.
    pub training: Vec<Launch>,
    /// The packing of all weights.
    pub packing: Launch,
    /// The exchange of the weights and their average, if there is one. The weights must be packed after it.
    pub swapping: Option<Launch>,
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
        let swapping = layout.average.map(|average| {
            let blocks = (row + running_len).div_ceil(256);
            let arguments = vec![layout.weights, layout.running, average];
            launch("swap_average", blocks, arguments)
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
        training.push(update);
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
            }
            match param.trained {
                true => tables.count += count,
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
        self.small = self.small.max(small);
        self.large = self.large.max(large);
        self.squares += small * small;
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
    launches: &mut Vec<Launch>,
) -> (usize, usize) {
    let (first, second) = (b.allocate(4 * row), b.allocate(4 * row));
    let (products, polynomials) = (
        b.allocate(4 * tables.squares),
        b.allocate(4 * tables.squares),
    );
    let parts = b.allocate(16 * tables.count);
    let weight_scales = b.allocate(4 * tables.matrix_count);
    let mut constants = String::new();
    define!(constants, SQUARES = b.square_count);
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
        launches.push(Launch {
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
        });
    }
    (second, weight_scales)
}
