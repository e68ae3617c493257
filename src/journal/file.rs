//! Journal files: appending under a lock, recovering from a cut, packing for the archive.

use super::{Header, Line, Trial};
use crate::error::{Context, Error, Result};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// What a journal holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contents {
    /// The environments, in order; the first line is one.
    pub headers: Vec<Header>,
    /// The trials, in order.
    pub trials: Vec<Trial>,
}

impl Contents {
    fn push(&mut self, line: Line) {
        match line {
            Line::Header(header) => self.headers.push(header),
            Line::Trial(trial) => self.trials.push(*trial),
        }
    }
}

/// A journal open for appending; no other process can open it meanwhile.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    /// Opens or creates the journal at `path` and returns what it already holds. A torn last line is cut off. With
    /// `fresh`, an old journal is set aside under a name that tells when.
    ///
    /// # Errors
    /// Where another process holds the journal, a line before the last is broken, or the file system refuses.
    pub fn open(path: &Path, fresh: bool) -> Result<(Self, Contents)> {
        let what = || format!("journal {}", path.display());
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).context(|| format!("output folder {}", folder.display()))?;
        }
        let mut file = lock(path).context(what)?;
        if fresh && file.metadata().context(what)?.len() > 0 {
            let stamp = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S%.3fZ");
            std::fs::rename(path, path.with_extension(format!("jsonl.{stamp}"))).context(what)?;
            file = lock(path).context(what)?;
        }
        let mut contents = Contents::default();
        let whole = parse(&mut BufReader::new(&file), &mut contents).context(what)?;
        file.set_len(whole).context(what)?;
        file.seek(SeekFrom::End(0)).context(what)?;
        Ok((Self { path: path.to_path_buf(), file }, contents))
    }

    /// Appends one line and hands it to the operating system, so that killing this process loses nothing.
    ///
    /// # Errors
    /// Where the file system refuses (a full disk, say).
    pub fn append(&mut self, line: &Line) -> Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.file.write_all(&text).context(|| format!("cannot write journal {}", self.path.display()))
    }
}

fn lock(path: &Path) -> Result<File> {
    let file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(Error::failure("another sweep is writing it; wait for it to end, or give --output another folder"))
        }
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

/// Reads lines into `contents` and returns the length in bytes of the whole lines.
fn parse(reader: &mut dyn BufRead, contents: &mut Contents) -> Result<u64> {
    let mut whole = 0;
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let length = reader.read_until(b'\n', &mut line)?;
        if !line.ends_with(b"\n") {
            break; // the end, or a line cut short by a kill
        }
        let parsed = serde_json::from_slice(&line).map_err(|error| Error::usage(format!("line {number}: {error}")))?;
        contents.push(parsed);
        whole += length as u64;
    }
    Ok(whole)
}

/// Reads a journal (`.jsonl`) or an archive (`.jsonl.zst`); a torn last line is dropped.
///
/// # Errors
/// Where the file cannot be read or a whole line is broken; the message names file and line.
pub fn read(path: &Path) -> Result<Contents> {
    let what = || format!("journal {}", path.display());
    let file = File::open(path).context(what)?;
    let mut contents = Contents::default();
    let reader: Box<dyn Read> = match path.extension() {
        Some(extension) if extension == "zst" => Box::new(zstd::Decoder::new(file).context(what)?),
        _ => Box::new(file),
    };
    parse(&mut BufReader::new(reader), &mut contents).context(what)?;
    Ok(contents)
}

/// Packs a journal into an archive, replacing it atomically, and returns the archive's size in bytes.
///
/// # Errors
/// Where the journal is broken or the file system refuses.
pub fn pack(journal: &Path, archive: &Path) -> Result<u64> {
    let what = || format!("archive {}", archive.display());
    let contents = read(journal)?;
    let folder = archive.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).context(what)?;
    let temporary = tempfile::NamedTempFile::new_in(folder).context(what)?;
    let mut encoder = zstd::Encoder::new(temporary, 19).context(what)?;
    let headers = contents.headers.into_iter().map(Line::Header);
    let trials = contents.trials.into_iter().map(|trial| Line::Trial(Box::new(trial)));
    for line in headers.chain(trials) {
        serde_json::to_writer(&mut encoder, &line)?;
        encoder.write_all(b"\n").context(what)?;
    }
    let temporary = encoder.finish().context(what)?;
    temporary.as_file().sync_all().context(what)?;
    temporary.persist(archive).map_err(|error| Error::from(error.error)).context(what)?;
    Ok(std::fs::metadata(archive).context(what)?.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Stage, Status};
    use crate::model::{Config, Dtype, Family, Shape};

    fn header() -> Line {
        Line::Header(Header {
            schema: 1,
            gpu: "NVIDIA H200".into(),
            arch: "sm_90a".into(),
            driver: "580.1".into(),
            nvrtc: "13.0.88".into(),
            protocol: "cold-l2/1".into(),
            sweep: "0.1.0".into(),
            started: "2026-01-01T00:00:00Z".into(),
        })
    }

    fn trial(numel: u64) -> Line {
        Line::Trial(Box::new(Trial {
            family: Family::Elementwise,
            problem: Shape::Elements { numel },
            dtype: Dtype::Bf16,
            config: Config { block_sizes: vec![1024], num_warps: Some(4), ..Config::default() },
            status: Status::Wrong,
            stage: Stage::Screen,
            median_us: None,
            q1_us: None,
            q3_us: None,
            min_us: None,
            samples: None,
            rel_err: Some(0.5),
            sm_mhz: None,
            throttled: false,
            rounds_us: vec![],
            null_arm: false,
            error: Some("relative error 0.5".into()),
            kernel: "abc".into(),
        }))
    }

    fn lines() -> Vec<Line> {
        vec![header(), trial(1), trial(2), trial(3)]
    }

    fn write(path: &Path, lines: &[Line]) {
        let (mut journal, _) = Journal::open(path, false).unwrap();
        for line in lines {
            journal.append(line).unwrap();
        }
    }

    #[test]
    fn a_file_cut_at_any_byte_keeps_its_whole_lines_and_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("whole.jsonl");
        write(&path, &lines());
        let bytes = std::fs::read(&path).unwrap();
        for cut in 0..=bytes.len() {
            let path = folder.path().join("cut.jsonl");
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let whole_lines =
                bytes[..cut].split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")).count();
            let (mut journal, contents) = Journal::open(&path, false).unwrap();
            assert_eq!(contents.headers.len() + contents.trials.len(), whole_lines, "cut at {cut}");
            journal.append(&trial(9)).unwrap();
            let again = read(&path).unwrap();
            assert_eq!(again.headers.len() + again.trials.len(), whole_lines + 1, "cut at {cut}");
        }
    }

    #[test]
    fn a_second_writer_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let _first = Journal::open(&path, false).unwrap();
        let error = Journal::open(&path, false).unwrap_err().to_string();
        assert!(error.contains("another sweep"), "{error}");
    }

    #[test]
    fn fresh_sets_the_old_journal_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        write(&path, &lines());
        let (_, contents) = Journal::open(&path, true).unwrap();
        assert_eq!(contents, Contents::default());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_broken_line_in_the_middle_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        std::fs::write(&path, "{\"kind\":\"trial\"}\n{}\n").unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("journal.jsonl: line 1"), "{error}");
    }

    #[test]
    fn an_archive_reads_as_its_journal() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        write(&path, &lines());
        let archive = folder.path().join("archive/journal.jsonl.zst");
        pack(&path, &archive).unwrap();
        assert_eq!(read(&archive).unwrap(), read(&path).unwrap());
    }
}
