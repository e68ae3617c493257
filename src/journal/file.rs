//! Journal files: appending under a lock, recovering from a cut, packing for the archive.

use super::lock::unlockable;
use super::{Header, Line, Trial};
use crate::error::{Context, Error, Result};
use crate::heuristics;
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
    /// Bytes of whole lines.
    whole: u64,
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
        regular(path).context(what)?;
        let mut file = lock(path).context(what)?;
        if fresh && file.metadata().context(what)?.len() > 0 {
            set_aside(path, path.parent().unwrap_or(Path::new("."))).context(what)?;
            file = lock(path).context(what)?;
        }
        let mut contents = Contents::default();
        let whole = parse(&mut BufReader::new(&file), &mut contents).context(what)?;
        if whole == 0 {
            begins_as_a_journal(&file).context(what)?;
        }
        file.set_len(whole).context(what)?;
        file.seek(SeekFrom::End(0)).context(what)?;
        Ok((Self { path: path.to_path_buf(), file, whole }, contents))
    }

    /// Appends lines, all or none, and hands them to the operating system, so that killing this process loses nothing.
    ///
    /// # Errors
    /// Where the file system refuses (a full disk, say); the lines before are whole.
    pub fn append(&mut self, lines: &[Line]) -> Result<()> {
        let mut text = Vec::new();
        for line in lines {
            serde_json::to_writer(&mut text, line)?;
            text.push(b'\n');
        }
        if let Err(error) = self.file.write_all(&text) {
            // Half a line would be taken for a broken one if another followed. What cannot be cut off now is cut off
            // when the journal is next opened.
            let _ = self.file.set_len(self.whole);
            return Err(Error::from(error).context(format!("cannot write journal {}", self.path.display())));
        }
        self.whole += text.len() as u64;
        Ok(())
    }
}

/// Moves a journal into `folder` under a name that tells when, and returns its new place. A name that is taken, as after a
/// clock that was set back, is never overwritten.
///
/// # Errors
/// Where the file system refuses.
pub fn set_aside(journal: &Path, folder: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(folder).context(|| format!("folder {}", folder.display()))?;
    let name = journal.file_name().unwrap_or_default().to_string_lossy();
    let stamp = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S%.3fZ").to_string();
    let mut place = folder.join(format!("{name}.{stamp}"));
    for turn in 2.. {
        if !place.exists() {
            break;
        }
        place = folder.join(format!("{name}.{stamp}-{turn}"));
    }
    std::fs::rename(journal, &place).context(|| format!("setting aside {}", journal.display()))?;
    Ok(place)
}

/// Replaces a journal by one that holds `contents`, whole or not at all.
///
/// # Errors
/// Where the file system refuses; the journal is then as it was.
pub fn replace(journal: &Path, contents: Contents) -> Result<()> {
    heuristics::replace(journal, |file| write_lines(file, contents))
        .context(|| format!("journal {}", journal.display()))
}

fn write_lines(writer: &mut dyn Write, contents: Contents) -> Result<()> {
    let headers = contents.headers.into_iter().map(Line::Header);
    let trials = contents.trials.into_iter().map(|trial| Line::Trial(Box::new(trial)));
    for line in headers.chain(trials) {
        serde_json::to_writer(&mut *writer, &line)?;
        writer.write_all(b"\n")?;
    }
    Ok(())
}

/// Refuses what is there and is no file: opening a pipe waits until somebody writes into it.
fn regular(path: &Path) -> Result<()> {
    match std::fs::metadata(path) {
        Ok(found) if !found.is_file() => Err(Error::usage("it is no file; name another")),
        _ => Ok(()),
    }
}

/// How every journal begins.
const BEGINNING: &[u8] = b"{\"kind\":\"header\",";

/// Refuses a file whose only line was never ended and is none of a journal's: it is somebody else's, and not torn.
fn begins_as_a_journal(mut file: &File) -> Result<()> {
    let mut start = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(BEGINNING.len() as u64).read_to_end(&mut start)?;
    if BEGINNING.starts_with(&start) {
        return Ok(());
    }
    Err(Error::usage("it is no journal, which begins with a header; move it away, or give --output another folder"))
}

fn lock(path: &Path) -> Result<File> {
    let file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(Error::failure("another sweep is writing it; wait for it to end, or give --output another folder"))
        }
        Err(TryLockError::Error(error)) => Err(unlockable(&error)),
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
        whole += length as u64;
        if line.trim_ascii().is_empty() {
            continue;
        }
        let wrong = |what: &dyn std::fmt::Display| {
            Error::usage(format!("line {number}: {what}; mend the line or take it out, or start over with --fresh"))
        };
        let text = heuristics::without_mark(&line);
        let parsed = serde_json::from_slice(text).map_err(|error| wrong(&format!("{error}, counted in the line")))?;
        if let Line::Trial(trial) = &parsed
            && let Some(contradiction) = trial.contradiction()
        {
            return Err(wrong(&contradiction));
        }
        match &parsed {
            Line::Header(Header { schema, .. }) if *schema != Header::SCHEMA => {
                return Err(wrong(&format!("schema {schema}, where this tool reads {}", Header::SCHEMA)));
            }
            Line::Trial(_) if contents.headers.is_empty() => {
                return Err(wrong(&"a trial before the header that says what it was measured with"));
            }
            _ => contents.push(parsed),
        }
    }
    Ok(whole)
}

/// Reads a journal (`.jsonl`) or an archive (`.jsonl.zst`); a torn last line is dropped.
///
/// # Errors
/// Where the file cannot be read or a whole line is broken; the message names file and line.
pub fn read(path: &Path) -> Result<Contents> {
    let what = || format!("journal {}", path.display());
    regular(path).context(what)?;
    let file = File::open(path).map_err(Error::usage).context(what)?;
    let mut contents = Contents::default();
    let reader: Box<dyn Read> = match path.extension() {
        Some(extension) if extension == "zst" => Box::new(zstd::Decoder::new(file).context(what)?),
        _ => Box::new(file),
    };
    parse(&mut BufReader::new(reader), &mut contents).context(what)?;
    Ok(contents)
}

/// Packs journals into one archive, replacing it atomically, and returns the archive's size in bytes.
///
/// # Errors
/// Where a journal is broken or the file system refuses.
pub fn pack(journals: &[PathBuf], archive: &Path) -> Result<u64> {
    let what = || format!("archive {}", archive.display());
    let mut contents = Contents::default();
    for journal in journals {
        let Contents { headers, trials } = read(journal)?;
        contents.headers.extend(headers);
        contents.trials.extend(trials);
    }
    heuristics::replace(archive, |file| {
        let mut encoder = zstd::Encoder::new(file, 19)?;
        encoder.include_checksum(true)?;
        write_lines(&mut encoder, contents)?;
        encoder.finish()?;
        Ok(())
    })
    .context(what)?;
    Ok(std::fs::metadata(archive).context(what)?.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Stage, Status};
    use crate::model::{Config, Dtype, Family, Micros, Problem, Shape};

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
        let problem = Problem { family: Family::Elementwise, shape: Shape::Elements { numel }, dtype: Dtype::Bf16 };
        let config = Config { block_sizes: vec![1024], num_warps: Some(4), ..Config::default() };
        let blank = Trial::untimed(&problem, config, Stage::Screen, Status::Wrong);
        Line::Trial(Box::new(Trial { error: Some("relative error 0.5".into()), kernel: "abc".into(), ..blank }))
    }

    fn lines() -> Vec<Line> {
        vec![header(), trial(1), trial(2), trial(3)]
    }

    fn write(path: &Path, lines: &[Line]) {
        let (mut journal, _) = Journal::open(path, false).unwrap();
        journal.append(lines).unwrap();
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
            let more = if whole_lines == 0 { vec![header(), trial(9)] } else { vec![trial(9)] };
            journal.append(&more).unwrap();
            let again = read(&path).unwrap();
            assert_eq!(again.headers.len() + again.trials.len(), whole_lines + more.len(), "cut at {cut}");
        }
    }

    #[test]
    fn what_is_not_a_journal_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let note = folder.path().join("journal.jsonl");
        std::fs::write(&note, "what somebody noted, in one line without an end").unwrap();
        let error = Journal::open(&note, false).unwrap_err().to_string();
        assert!(error.contains("it is no journal"), "{error}");
        assert!(std::fs::read_to_string(&note).unwrap().ends_with("without an end"));
        for error in [Journal::open(folder.path(), false).map(drop), read(folder.path()).map(drop)] {
            assert!(error.unwrap_err().to_string().contains("it is no file"));
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
    fn what_is_set_aside_overwrites_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let aside = folder.path().join("aside");
        let places: std::collections::BTreeSet<_> = (1..=40)
            .map(|numel| {
                let path = folder.path().join("journal.jsonl");
                write(&path, &[header(), trial(numel)]);
                set_aside(&path, &aside).unwrap()
            })
            .collect();
        assert_eq!(places.len(), 40);
        assert!(places.iter().all(|place| read(place).unwrap().trials.len() == 1));
    }

    #[test]
    fn a_replaced_journal_holds_what_it_was_given_and_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        write(&path, &lines());
        let mut contents = read(&path).unwrap();
        contents.trials.remove(1);
        replace(&path, contents.clone()).unwrap();
        assert_eq!(read(&path).unwrap(), contents);
        write(&path, &[trial(4)]);
        assert_eq!(read(&path).unwrap().trials.len(), 3);
    }

    #[test]
    fn what_is_no_journal_is_refused_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let text = |line: &Line| serde_json::to_string(line).unwrap() + "\n";
        let (header, trial) = (text(&header()), text(&trial(1)));
        let cases = [
            ("{\"kind\":\"trial\"}\n{}\n".to_owned(), "journal.jsonl: line 1: "),
            (format!("{header}{trial}{{\n{trial}"), "journal.jsonl: line 3: "),
            (trial.clone(), "line 1: a trial before the header"),
            (header.replace("\"schema\":1", "\"schema\":2"), "line 1: schema 2, where this tool reads 1"),
        ];
        for (text, expected) in cases {
            std::fs::write(&path, text).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        for text in [format!("{header}\n{trial}\n"), format!("\u{feff}{header}{trial}")] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(read(&path).unwrap().trials.len(), 1, "an empty line is none, nor is a byte-order mark");
        }
    }

    /// A bit that a disk or a copy flipped in an archive is an error, and never other data.
    #[test]
    fn no_flipped_bit_of_an_archive_is_read_as_other_data() {
        let folder = tempfile::tempdir().unwrap();
        let (journal, archive) = (folder.path().join("journal.jsonl"), folder.path().join("journal.jsonl.zst"));
        write(&journal, &lines());
        pack(std::slice::from_ref(&journal), &archive).unwrap();
        let (whole, bytes) = (read(&archive).unwrap(), std::fs::read(&archive).unwrap());
        let (mut refused, flips) = (0, 8 * bytes.len());
        for bit in 0..flips {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&archive, flipped).unwrap();
            match read(&archive) {
                Ok(contents) => assert_eq!(contents, whole, "bit {bit}"),
                Err(_) => refused += 1,
            }
        }
        assert!(refused > flips * 9 / 10, "{refused} of {flips}");
    }

    /// What a disk may have done to a trial.
    type Change = fn(&mut Trial);

    #[test]
    fn times_that_no_clock_tells_are_refused_with_their_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let timed = |change: Change| {
            let Line::Trial(mut trial) = trial(1) else { unreachable!() };
            let us = |us| Some(Micros(us));
            (trial.status, trial.error) = (Status::Ok, None);
            (trial.min_us, trial.q1_us, trial.median_us, trial.q3_us) = (us(9.0), us(9.5), us(10.0), us(11.0));
            trial.time_us = us(9.4);
            change(&mut trial);
            let text = |line: &Line| serde_json::to_string(line).unwrap() + "\n";
            text(&header()) + &text(&Line::Trial(trial))
        };
        let cases: [(Change, &str); 5] = [
            (|_| {}, ""),
            (|trial| trial.median_us = Some(Micros(1.0)), "line 2: q1_us 9.50 µs is more than median_us 1.00 µs"),
            (|trial| trial.q3_us = Some(Micros(1.0)), "line 2: median_us 10.00 µs is more than q3_us 1.00 µs"),
            (|trial| trial.min_us = Some(Micros(-9.0)), "line 2: min_us is -9.00 µs"),
            (|trial| trial.rounds_us = vec![9.0, 0.0], "line 2: a round took 0 µs"),
        ];
        for (change, expected) in cases {
            std::fs::write(&path, timed(change)).unwrap();
            match read(&path) {
                Ok(contents) => assert!(expected.is_empty() && contents.trials.len() == 1),
                Err(error) => {
                    assert!(!expected.is_empty() && error.to_string().contains(expected), "{error}: not '{expected}'");
                }
            }
        }
    }

    #[test]
    fn an_archive_reads_as_its_journal() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        write(&path, &lines());
        let archive = folder.path().join("archive/journal.jsonl.zst");
        pack(std::slice::from_ref(&path), &archive).unwrap();
        assert_eq!(read(&archive).unwrap(), read(&path).unwrap());
    }
}
