//! A client and its backend on one core. Where the scheduler puts the two decides whether a point read takes 25 or 45
//! microseconds, and it changes its mind from one second to the next; no median gets rid of that.

/// Pins a process or thread (0: the calling thread) to the last core.
pub fn to_one_core(id: i32) {
    affinity(id, cores() - 1..cores());
}

/// Lets it run on all of them again.
pub fn release(id: i32) {
    affinity(id, 0..cores());
}

pub fn cores() -> usize {
    // Asked before the first pinning, after which it would be one.
    static CORES: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}

#[cfg(target_os = "linux")]
fn affinity(id: i32, cores: std::ops::Range<usize>) {
    // SAFETY: the set is plain bits, initialized by zeroing; the call reads it. Where it is not permitted, nothing
    // happens and the figures spread more.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        for core in cores {
            libc::CPU_SET(core, &mut set);
        }
        libc::sched_setaffinity(id, size_of::<libc::cpu_set_t>(), &set);
    }
}

#[cfg(not(target_os = "linux"))]
fn affinity(_: i32, _: std::ops::Range<usize>) {}
