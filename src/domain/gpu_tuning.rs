//! How the variants of the GPU's kernels are chosen.

/// The values of `--gpu-tuning`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GpuTuning {
    /// Always the plain ones. The default until a GPU has confirmed the others.
    #[default]
    Off,
    /// The plain ones at first; then those of the best guesses that are measured fastest on this GPU, once.
    Quick,
    /// All variants are measured.
    Full,
}

impl GpuTuning {
    pub const ALL: &[GpuTuning] = &[GpuTuning::Off, GpuTuning::Quick, GpuTuning::Full];

    pub fn name(self) -> &'static str {
        match self {
            GpuTuning::Off => "off",
            GpuTuning::Quick => "quick",
            GpuTuning::Full => "full",
        }
    }

    /// The value with this name.
    pub fn named(name: &str) -> Option<Self> {
        let mut all = Self::ALL.iter().copied();
        all.find(|tuning| tuning.name() == name)
    }
}
