//! Structs that the host and the kernels share. Each is declared once: the Rust type and the text of the CUDA struct
//! are generated from the same list of fields.

/// The Rust type of a field. Device addresses are u64.
macro_rules! rust_type {
    (u32) => {
        u32
    };
    (u64) => {
        u64
    };
    (f32) => {
        f32
    };
    (f64) => {
        f64
    };
    ($pointer:ident) => {
        u64
    };
}

/// The CUDA type of a field.
macro_rules! cuda_type {
    (u32) => {
        "u32 "
    };
    (u64) => {
        "u64 "
    };
    (f32) => {
        "float "
    };
    (f64) => {
        "double "
    };
    (u8_pointer) => {
        "const u8 *"
    };
    (u16_pointer) => {
        "const u16 *"
    };
    (u32_pointer) => {
        "const u32 *"
    };
}

/// Declares a record, and a macro with the text of its CUDA struct.
macro_rules! record {
    (
        $(#[$doc:meta])*
        $name:ident, $cuda:literal, $text:ident {
            $($(#[$field_doc:meta])* $field:ident: $kind:ident $([$len:literal])?,)+
        }
    ) => {
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: record!(@type $kind $($len)?),)+
        }

        // There must be no padding, so that all bytes are initialised and CUDA uses the same layout.
        const _: () = assert!(
            size_of::<$name>() == 0 $(+ size_of::<record!(@type $kind $($len)?)>())+
        );

        impl Record for $name {}

        macro_rules! $text {
            () => {
                concat!(
                    "struct ", $cuda, " {\n",
                    $("    ", cuda_type!($kind), stringify!($field), $("[", stringify!($len), "]",)? ";\n",)+
                    "};\n"
                )
            };
        }
    };
    (@type $kind:ident) => { rust_type!($kind) };
    (@type $kind:ident $len:literal) => { [rust_type!($kind); $len] };
}

/// A type whose bytes are all initialised, and for which all byte patterns are valid.
pub trait Record: Copy + Default {
    fn bytes(&self) -> &[u8] {
        // SAFETY: a record has no padding, so all of its bytes are initialised.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }

    /// Reads a record from its bytes.
    fn from_bytes(bytes: &[u8]) -> Self {
        let mut record = Self::default();
        // SAFETY: as in `bytes`; all byte patterns are valid, since a record consists of numbers.
        let to = unsafe {
            std::slice::from_raw_parts_mut(
                std::ptr::from_mut(&mut record).cast(),
                size_of::<Self>(),
            )
        };
        to.copy_from_slice(bytes);
        record
    }
}

record! {
    /// The settings of one training step or scoring pass.
    StepRecord, "Step", step_text {
        number: u64,
        seed: u64,
        /// `[n, channels, side, side]`.
        pixels: u8_pointer,
        labels: u16_pointer,
        /// The numbers of the batch's images.
        images: u32_pointer,
        /// How many images the layers see: in scoring, each image once in each view.
        count: u32,
        /// In scoring, the number of views of each image: all images in the first view come first. 0 in training.
        views: u32,
        /// 0 for none, 1 for a random half, 2 for each image in every second epoch.
        flip: u32,
        crop: u32,
        /// Whether a shifted image is mirrored at its edge.
        reflect: u32,
        cutout: u32,
        /// From 1.
        epoch: u32,
        /// The dropout hyperparameter: an element is dropped if the upper 24 bits of its random word are below this,
        threshold: u32,
        /// and multiplied by this when it is kept.
        scale: f32,
        smoothing: f32,
        /// What each image's gradient of the loss is multiplied by: 1 / count for the mean loss, 1 for the sum.
        share: f32,
        pixel_scale: f32[3],
        pixel_shift: f32[3],
        /// The optimizer's coefficients of each group of parameters, see `optimizers::Coefficients`.
        l2: f32[4],
        decay_factor: f32[4],
        own: f32[32],
        /// The share of its way to the new weights that the average of the weights moves: 1 begins it, 0 keeps it.
        average_share: f32,
        clip_norm: f64,
    }
}

record! {
    /// The result of a training step.
    OutcomeRecord, "StepOutcome", outcome_text {
        number: u64,
        loss: f64,
        norm: f64,
        correct: u32,
        /// 0 if the loss or the gradient was not finite; the step then had no effect.
        applied: u32,
        /// 1 if a weight is not finite after the step.
        not_finite: u32,
        unused: u32,
    }
}

record! {
    /// The progress of a list of training steps.
    ProgressRecord, "ListProgress", progress_text {
        /// Index of the current step in the list.
        cursor: u32,
        /// 1 after a step that was not finite: later steps are not applied.
        latched: u32,
        loss: f64,
        correct: u32,
        /// 1 after a step that wrote a weight that is not finite.
        not_finite: u32,
    }
}

/// The beginning of every kernel's source.
pub const COMMON: &str = concat!(
    "typedef unsigned char u8;\n",
    "typedef unsigned short u16;\n",
    "typedef unsigned int u32;\n",
    "typedef unsigned long long u64;\n",
    step_text!(),
    outcome_text!(),
    progress_text!(),
    include_str!("../../layers/kernels.cuh")
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_from_its_bytes_and_its_struct_names_every_field() {
        let record = OutcomeRecord {
            number: 7,
            loss: 0.5,
            norm: f64::INFINITY,
            correct: 3,
            applied: 1,
            ..OutcomeRecord::default()
        };
        assert_eq!(OutcomeRecord::from_bytes(record.bytes()), record);
        assert_eq!(record.bytes()[..8], 7u64.to_le_bytes());
        assert_eq!(
            outcome_text!(),
            "struct StepOutcome {\n    u64 number;\n    double loss;\n    double norm;\n    u32 correct;\n    u32 applied;\n    u32 not_finite;\n    u32 unused;\n};\n"
        );
        for line in ["    const u16 *labels;\n", "    float own[32];\n"] {
            assert!(step_text!().contains(line), "{line}");
        }
    }
}
