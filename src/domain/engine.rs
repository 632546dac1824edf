//! The choice of the code that trains: our kernels or Candle.

/// The values of `--engine`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// Our own kernels, which are always the fastest.
    #[default]
    Auto,
    /// Our own kernels.
    Native,
    /// Plain Candle: slow, on every device that Candle supports.
    Candle,
}

impl EngineChoice {
    pub const ALL: &[EngineChoice] = &[
        EngineChoice::Auto,
        EngineChoice::Native,
        EngineChoice::Candle,
    ];

    pub fn name(self) -> &'static str {
        match self {
            EngineChoice::Auto => "auto",
            EngineChoice::Native => "native",
            EngineChoice::Candle => "candle",
        }
    }

    /// The choice with this name.
    pub fn named(name: &str) -> Option<Self> {
        let mut all = Self::ALL.iter().copied();
        all.find(|engine| engine.name() == name)
    }
}
