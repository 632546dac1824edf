//! One parquet file: its layout is checked before anything is decoded, then its rows are read in blocks.

use super::super::{DataError, MAX_IMAGES};
use super::{ROWS, pages};
use crate::files;
use parquet::basic::{Compression, Type};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, DataType};
use parquet::errors::ParquetError;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::SchemaDescriptor;
use std::fs::File;
use std::io::{self, Read as _, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Maximum size in bytes of the metadata at the end of a file.
const MAX_FOOTER: u32 = 1 << 20;

/// Maximum number of columns that an error message lists.
const MAX_COLUMNS: usize = 8;

/// An open file whose layout has been checked.
pub struct Table {
    pub path: PathBuf,
    reader: SerializedFileReader<File>,
    pub rows: usize,
    /// Indices of the two columns in the schema.
    bytes: usize,
    label: usize,
}

impl Table {
    pub fn open(path: PathBuf) -> Result<Table, DataError> {
        let mut file = files::open(&path).map_err(DataError::io(&path))?;
        check_footer(&mut file, &path)?;
        let broken = |e: ParquetError| {
            DataError::damaged(&path, "the description at its end", e.to_string())
        };
        let headers = file.try_clone().map_err(DataError::io(&path))?;
        let reader = SerializedFileReader::new(file).map_err(broken)?;
        let metadata = reader.metadata();
        let rows = metadata.file_metadata().num_rows();
        let rows = usize::try_from(rows)
            .ok()
            .filter(|rows| *rows <= MAX_IMAGES);
        let rows = rows.ok_or_else(|| {
            DataError::damaged(
                &path,
                "its rows",
                format!("more than {MAX_IMAGES}, or none that can be"),
            )
        })?;
        let schema = metadata.file_metadata().schema_descr();
        let column = |name, kind| column(schema, name, kind, &path);
        let (bytes, label) = (
            column("img.bytes", Type::BYTE_ARRAY)?,
            column("label", Type::INT64)?,
        );
        let mut sum = 0;
        // Writers of empty files may add a row group without pages.
        for group in metadata.row_groups().iter().filter(|g| g.num_rows() != 0) {
            sum += group.num_rows();
            for chunk in [group.column(bytes), group.column(label)] {
                check_chunk(chunk, &headers, &path)?;
            }
        }
        if sum != rows as i64 {
            return Err(DataError::damaged(
                &path,
                "its row groups",
                format!("{sum} rows, but the metadata says {rows}"),
            ));
        }
        Ok(Table {
            path,
            reader,
            rows,
            bytes,
            label,
        })
    }
}

/// The index of the column `name`, which must hold one value of type `kind` per row.
fn column(
    schema: &SchemaDescriptor,
    name: &str,
    kind: Type,
    path: &Path,
) -> Result<usize, DataError> {
    let columns = schema.columns();
    let names: Vec<String> = columns
        .iter()
        .map(|column| column.path().string())
        .collect();
    let place = names.iter().position(|n| n == name);
    let what = match place.map(|i| &columns[i]) {
        Some(found) if found.physical_type() != kind => {
            format!(
                "has a column '{name}' of type {}; {kind} is expected",
                found.physical_type()
            )
        }
        Some(found) if found.max_rep_level() > 0 => {
            format!("has a column '{name}' of lists; one value per row is expected")
        }
        Some(_) => return Ok(place.unwrap_or_default()),
        None if names.iter().any(|n| n == "fine_label") => {
            "holds CIFAR-100 (it has a column 'fine_label'); only CIFAR-10 is supported".into()
        }
        None => format!(
            "has no column '{name}'; its columns are {}",
            names
                .iter()
                .take(MAX_COLUMNS)
                .map(|n| format!("'{n}'"))
                .collect::<Vec<_>>()
                .join(", ")
        ),
    };
    Err(DataError::unsupported(
        path,
        what,
        "Write it with the columns img (a struct with the field bytes, a PNG or JPEG each) and label (64-bit integers), or \
         fetch CIFAR-10 with `cifar-tui data download`.",
    ))
}

/// The metadata is at the end, followed by its length and the bytes PAR1.
fn check_footer(file: &mut File, path: &Path) -> Result<(), DataError> {
    let mut tail = [0; 8];
    let end = file.seek(SeekFrom::End(0)).map_err(DataError::io(path))?;
    let damaged =
        |why: &str| DataError::damaged(path, format!("byte {}", end.saturating_sub(8)), why);
    if end < 12 {
        return Err(damaged("it is too short for a parquet file"));
    }
    file.seek(SeekFrom::End(-8))
        .and_then(|_| file.read_exact(&mut tail))
        .map_err(DataError::io(path))?;
    let length = u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]);
    if &tail[4..] != b"PAR1" {
        return Err(damaged("it does not end as a parquet file does"));
    }
    if length > MAX_FOOTER {
        return Err(damaged(
            "its description is larger than that of any CIFAR-10 file",
        ));
    }
    Ok(())
}

fn check_chunk(chunk: &ColumnChunkMetaData, file: &File, path: &Path) -> Result<(), DataError> {
    let name = chunk.column_path().string();
    let damaged = |why: String| DataError::damaged(path, format!("column '{name}'"), why);
    if !matches!(
        chunk.compression(),
        Compression::SNAPPY | Compression::UNCOMPRESSED
    ) {
        let packing = format!("{:?}", chunk.compression());
        let packing = packing.split('(').next().unwrap_or_default().to_lowercase();
        return Err(DataError::unsupported(
            path,
            format!("is packed with {packing}; only snappy and uncompressed files are supported"),
            "Write it again with compression='snappy', or fetch CIFAR-10 with `cifar-tui data download`.",
        ));
    }
    let start = chunk
        .dictionary_page_offset()
        .unwrap_or(i64::MAX)
        .min(chunk.data_page_offset());
    let (Ok(start), Ok(length)) = (u64::try_from(start), u64::try_from(chunk.compressed_size()))
    else {
        return Err(damaged("it lies before the file's beginning".into()));
    };
    let end = file.metadata().map_err(DataError::io(path))?.len();
    if start.checked_add(length).is_none_or(|to| to > end) {
        return Err(damaged("it lies beyond the file's end".into()));
    }
    pages::check(file, start, length)
        .map_err(|(offset, why)| DataError::damaged(path, format!("byte {offset}"), why))
}

/// Receives the image files and labels of some rows. Returns whether to continue.
pub type Each<'a> = &'a mut dyn FnMut(Vec<ByteArray>, &[i64]) -> Result<bool, DataError>;

impl Table {
    /// Passes (image files, labels) to `each`, in blocks of rows, until it returns false.
    pub fn rows(&self, each: Each) -> Result<(), DataError> {
        let mut row = 0;
        let metadata = self.reader.metadata();
        let is_empty = |group: &usize| metadata.row_group(*group).num_rows() == 0;
        for group in (0..self.reader.num_row_groups()).filter(|group| !is_empty(group)) {
            let broken = |e: ParquetError| {
                DataError::damaged(&self.path, format!("row {row}"), e.to_string())
            };
            let reader = self.reader.get_row_group(group).map_err(broken)?;
            let columns = (
                reader.get_column_reader(self.bytes),
                reader.get_column_reader(self.label),
            );
            let (
                ColumnReader::ByteArrayColumnReader(mut bytes),
                ColumnReader::Int64ColumnReader(mut labels),
            ) = (columns.0.map_err(broken)?, columns.1.map_err(broken)?)
            else {
                return Err(DataError::damaged(
                    &self.path,
                    format!("row {row}"),
                    "columns of another type",
                ));
            };
            let mut left = usize::try_from(reader.metadata().num_rows()).unwrap_or(0);
            while left > 0 {
                let n = left.min(ROWS);
                let files = self.some(&mut bytes, n, row)?;
                let marks = self.some(&mut labels, n, row)?;
                if !each(files, &marks)? {
                    return Ok(());
                }
                row += n;
                left -= n;
            }
        }
        Ok(())
    }

    /// The next `n` values of a column, none of them null.
    fn some<T: DataType>(
        &self,
        column: &mut ColumnReaderImpl<T>,
        n: usize,
        row: usize,
    ) -> Result<Vec<T::T>, DataError> {
        let damaged = |why: String| DataError::damaged(&self.path, format!("row {row}"), why);
        let (mut values, mut levels) = (Vec::with_capacity(n), Vec::with_capacity(n));
        while values.len() < n {
            let before = values.len();
            let (records, present, _) = column
                .read_records(n - before, Some(&mut levels), None, &mut values)
                .map_err(|error| damaged(error.to_string()))?;
            if records == 0 || records != present {
                return Err(damaged("the rows end early, or a value is missing".into()));
            }
        }
        Ok(values)
    }
}

/// Reads at an offset; used by [`pages`].
pub fn read_at(mut file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    file.seek(SeekFrom::Start(offset))?;
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            n => filled += n,
        }
    }
    Ok(filled)
}
