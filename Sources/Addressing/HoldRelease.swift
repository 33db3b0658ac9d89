import CKernel
import Glibc
import Kernel

/// The frames of one lane: out of its tap, and back into the stack.
extension HoldQueue {
    /// Reads one waiting frame into `buffer`; nil when none waits.
    private func readFrame(_ lane: Lane, _ buffer: UnsafeMutableRawBufferPointer) throws(AddressingError) -> Int? {
        do throws(KernelError) {
            return try systemCall("read", on: lane.tap.interface.name) {
                read(lane.tap.descriptor.raw, buffer.baseAddress, buffer.count)
            }
        } catch  where error.code == .again {
            return nil
        } catch {
            throw .kernel(error)
        }
    }

    /// Writes one frame to the tap, from whose ingress it goes to the NIC's. False if the tap refuses it: offloads that
    /// contradict the packet, as lost as on a bad wire.
    private func writeFrame(_ lane: Lane, _ bytes: UnsafeRawBufferPointer) throws(AddressingError) -> Bool {
        do throws(KernelError) {
            try systemCall("write", on: lane.tap.interface.name) {
                write(lane.tap.descriptor.raw, bytes.baseAddress, bytes.count)
            }
            return true
        } catch  where error.code == .invalidArgument {
            return false
        } catch {
            throw .kernel(error)
        }
    }

    func takeFrames(_ lane: Lane, _ count: Int) throws(AddressingError) -> [HeldFrame] {
        var frames: [HeldFrame] = []
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 18, alignment: 8)
        defer { buffer.deallocate() }
        while frames.count < count, let length = try readFrame(lane, buffer) {
            frames.append(HeldFrame(bytes: [UInt8](buffer[..<length])))
        }
        return frames
    }

    /// Puts frames from elsewhere back, a window at a time.
    func putBack(
        _ address: VirtualAddress, _ lane: Lane, _ frames: [HeldFrame], _ state: inout Lane.State
    ) throws(AddressingError) {
        // What this host sent itself comes back by lo.
        let own = frames.isEmpty ? [] : Set(try AddressManager().list().addresses.map(\.address.bytes))
        var index = 0
        while index < frames.count {
            let before = try tally(address).passed
            let piece = frames[index..<min(index + Self.windowFrames, frames.count)]
            var written = 0
            for frame in piece {
                let isOwn = own.contains(Array(frame.source))
                let bytes = frame.addressed(to: isOwn ? HeldFrame.loopback : lane.hardware)
                let failure: AddressingError? = bytes.withUnsafeBytes { bytes in
                    do throws(AddressingError) {
                        if try writeFrame(lane, bytes) { written += 1 }
                        return nil
                    } catch {
                        return error
                    }
                }
                if let failure { throw failure }
            }
            try settle(address, lane, &state, before: before, written: written, tried: piece.count)
            index += piece.count
        }
    }

    /// Puts up to a window of what waits here back; returns how many frames there were.
    private func pump(
        _ address: VirtualAddress, _ lane: Lane, _ state: inout Lane.State, _ buffer: UnsafeMutableRawBufferPointer
    ) throws(AddressingError) -> Int {
        let before = try tally(address).passed
        var tried = 0
        var written = 0
        while tried < Self.windowFrames, let length = try readFrame(lane, buffer) {
            if tried == 0 {
                state.underWay = Int64(Self.windowFrames)
                try publishAsCounted(address, lane, state)
            }
            tried += 1
            if try writeFrame(lane, UnsafeRawBufferPointer(rebasing: buffer[..<length])) { written += 1 }
        }
        guard tried > 0 else { return 0 }
        // A frame is at its socket when write(2) returns: the softirq that carries it ran before (local_bh_enable).
        try settle(address, lane, &state, before: before, written: written, tried: tried)
        state.underWay = 0
        try publishAsCounted(address, lane, state)
        return tried
    }

    /// Waits until the programs have seen what was written pass, which takes microseconds; 100 ms bound the wait.
    private func settle(
        _ address: VirtualAddress, _ lane: Lane, _ state: inout Lane.State, before: UInt64, written: Int, tried: Int
    ) throws(AddressingError) {
        let expected = before + UInt64(written)
        let end = Clock.monotonic + 100_000_000
        var reached = try tally(address).passed
        while reached < expected && Clock.monotonic < end {
            sched_yield()
            reached = try tally(address).passed
        }
        state.lost += Int64(tried - written) + Int64(expected - min(expected, reached))
        if tried > written || reached < expected { try publish(address, lane, &state) }
    }

    /// Puts back what waits until every ticket is accounted for. Returns how many are not, after 200 ms in which
    /// nothing more came; or nil when packets came faster than they could be put back until `limit` (CLOCK_MONOTONIC).
    func empty(
        _ address: VirtualAddress, _ lane: Lane, _ state: inout Lane.State, limit: Int64
    ) throws(AddressingError) -> Int64? {
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 18, alignment: 8)
        defer { buffer.deallocate() }
        var end = Clock.monotonic + 200_000_000
        while true {
            if try pump(address, lane, &state, buffer) > 0 {
                end = Clock.monotonic + 200_000_000
                if Clock.monotonic > limit { return nil }
                continue
            }
            try publish(address, lane, &state)
            let tally = try tally(address)
            let settled = state.balance + state.lost + state.dropped
            let missing = Int64(clamping: tally.tickets) - Int64(clamping: tally.passed) - settled
            if missing <= 0 { return 0 }
            guard Clock.monotonic < end else {
                state.lost += missing
                return missing
            }
            sched_yield()
        }
    }
}
