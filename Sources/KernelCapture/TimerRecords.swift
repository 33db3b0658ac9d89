import ProcessImage

extension RecordDecoder {
    static func posixTimer(_ reader: inout RecordReader) throws(RecordError) -> PosixTimerRecord {
        let id = try reader.number()
        let clock = try reader.word()
        return PosixTimerRecord(
            id: id, clock: clock == .max ? nil : Int32(truncatingIfNeeded: clock), isArmed: try reader.flag(),
            next: try reader.signed(), interval: try reader.signed())
    }

    /// Words: real expiry and interval, virtual, prof, user and system CPU time; all nanoseconds. An armed timer
    /// whose time has come but whose signal is not out yet keeps one microsecond.
    static func timers(now: Int64, _ words: [Int64]) -> [IntervalTimerImage] {
        func timer(_ expires: Int64, _ interval: Int64, _ clock: Int64) -> IntervalTimerImage {
            let remaining = expires == 0 ? 0 : max(1, IntervalTimer.next(expires &- clock, interval) / 1000)
            return IntervalTimerImage(remaining: remaining, interval: interval / 1000)
        }
        return [
            timer(words[0], words[1], now), timer(words[2], words[3], words[6]),
            timer(words[4], words[5], words[6] &+ words[7]),
        ]
    }
}

/// The rhythm of a timer with an interval.
public enum IntervalTimer {
    /// Nanoseconds until it goes off next, from what is left of the time it was last set to. Of one whose signal waits
    /// to be taken nothing is left: it goes on in its rhythm, as the kernel has it, hrtimer_forward().
    public static func next(_ left: Int64, _ interval: Int64) -> Int64 {
        left > 0 || interval <= 0 ? left : interval - (0 &- left) % interval
    }
}
