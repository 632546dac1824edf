//! Whose code computes.

/// What `--engine` asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// The fastest: always our own kernels.
    #[default]
    Auto,
    /// Our own kernels.
    Native,
    /// Plain Candle: slow, on whatever device Candle computes on.
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

    /// The engine of this name.
    pub fn named(name: &str) -> Option<Self> {
        let mut all = Self::ALL.iter().copied();
        all.find(|engine| engine.name() == name)
    }
}
