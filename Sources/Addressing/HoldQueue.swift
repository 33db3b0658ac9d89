import CKernel
import CPrograms
import Glibc
import Kernel
import Synchronization

/// Lets packets for virtual addresses wait while nobody can take them, and puts them back in order.
///
/// Each address has a tap of its own, whose queue in the kernel holds the packets: nothing need read while they come.
/// The programs stay on the NIC when this process ends; the pinned maps keep the modes, so that a silent source stays
/// silent while the daemon restarts. The packets that wait go with the process: their senders repeat them.
/// Calls block for microseconds, `release` for as long as there is something to put back.
public final class HoldQueue: Sendable {
    /// Packets one address can keep waiting: 100 ms of small packets at a million a second.
    public static let defaultBound: Int32 = 100_000
    /// How many injected frames may be under way into the stack; its backlog (net.core.netdev_max_backlog) takes 1000.
    static let windowFrames = 256

    /// One address: its tap and what was settled outside the programs.
    final class Lane: Sendable {
        let tap: TapDevice
        let nic: NetworkInterface
        let hardware: [UInt8]
        let state = Mutex(State())

        struct State {
            var mode: HoldMode = []
            /// Drained by the caller minus injected by the caller.
            var balance: Int64 = 0
            /// Frames of ours that never came through: refused by the tap or lost behind it.
            var lost: Int64 = 0
            /// Frames that may be on their way back into the stack. The programs count one as passed before its socket
            /// has it, and another processor must not let a later packet pass in between.
            var underWay: Int64 = 0
            /// Frames given up at the bound, as last read.
            var dropped: Int64 = 0
        }

        init(tap: consuming TapDevice, nic: NetworkInterface, hardware: [UInt8]) {
            self.tap = tap
            self.nic = nic
            self.hardware = hardware
        }
    }

    private let bound: Int32
    let programs: HoldPrograms
    private let lanes = Mutex<[HoldAddress: Lane]>([:])

    /// Loads the programs; `pinDirectory` lies on a bpf file system and is made if need be. Maps pinned there before
    /// are taken over with the modes in them. `bound` is the number of packets each address can keep waiting; beyond it
    /// the newest is given up, as on a full wire.
    public init(pinDirectory: String, bound: Int32 = HoldQueue.defaultBound) throws(AddressingError) {
        self.bound = bound
        try preparePinDirectory(pinDirectory)
        let object = try ProgramObject(
            program_hold(), name: "hold",
            pinning: ["hold_modes", "hold_tallies", "hold_taps", "hold_handshakes", "hold_handshakes_until"],
            in: pinDirectory)
        let modes = try object.map("hold_modes")
        let tallies = try object.map("hold_tallies")
        let taps = try object.map("hold_taps")
        let handshakes = try object.map("hold_handshakes")
        let until = try object.map("hold_handshakes_until")
        // Taps of former processes are gone; one process looks after a host.
        try kernel { () throws(KernelError) in
            for tap in try taps.keys(empty: Int32(0)) { try taps.remove(tap) }
        }
        programs = HoldPrograms(
            object: object, modes: modes, tallies: tallies, taps: taps, handshakes: handshakes, handshakesUntil: until)
    }

    /// Attaches the programs to `nic`, where nothing is held yet. Repeatable. Call it long before a move.
    ///
    /// The first time a NIC gets a clsact, the kernel takes its transmit queues out of service for a grace period
    /// (qdisc_graft and dev_deactivate, net/sched): what is sent in these milliseconds is dropped with NET_XMIT_CN,
    /// which TCP counts as sent, so that nobody repeats it before a retransmission timeout.
    ///
    /// They go to lo as well: over it this host's own processes reach the address. A packet that comes back from the
    /// queue has lost the route that the sender had found for it, and a source address of this host is a martian then,
    /// unless lo has accept_local (net/ipv4/fib_frontend.c, fib_validate_source).
    public func attach(to nic: NetworkInterface) throws(AddressingError) {
        let loopback = try kernel { () throws(KernelError) in
            try Files.writeControl("/proc/sys/net/ipv4/conf/lo/accept_local", "1")
            return try NetworkInterface(index: 1)
        }
        for interface in [nic, loopback] {
            try programs.object.attach("hold_ingress", to: interface, ingress: true)
            try programs.object.attach("hold_egress", to: interface, ingress: false)
        }
    }

    /// Attaches the programs to `nic` and makes the tap of each address. Nothing is held yet, except that an address
    /// which a former process of this daemon left held or silent stays so. Repeatable.
    public func prepare(_ nic: NetworkInterface, _ addresses: [VirtualAddress]) throws(AddressingError) {
        try attach(to: nic)
        try lanes.withLock { (lanes) throws(AddressingError) in
            for address in addresses where lanes[HoldAddress(address)] == nil {
                lanes[HoldAddress(address)] = try makeLane(address, nic)
            }
        }
    }

    /// Every address with a mode other than none, those a former process left included, each without its prefix: what
    /// a starting daemon must decide on.
    public func heldAddresses() throws(AddressingError) -> [VirtualAddress] {
        let keys = try kernel { () throws(KernelError) in try programs.modes.keys(empty: HoldAddress.empty) }
        var held: [VirtualAddress] = []
        for address in keys.compactMap(\.virtualAddress) where try mode(of: address) != [] { held.append(address) }
        return held
    }

    /// The modes that hold for the address, those of a former process included.
    public func mode(of address: VirtualAddress) throws(AddressingError) -> HoldMode {
        let record = try kernel { () throws(KernelError) in
            try programs.modes.value(HoldAddress(address), empty: HoldModeRecord())
        }
        return HoldMode(rawValue: record?.flags ?? 0).subtracting(.drain)
    }

    /// Changes what happens to packets from now on. Ending a hold this way leaves what waits where it is: use `release`
    /// where it must go on to the service.
    public func setMode(_ address: VirtualAddress, _ mode: HoldMode) throws(AddressingError) {
        let lane = try lane(address)
        try lane.state.withLock { (state) throws(AddressingError) in
            state.mode = mode
            try publish(address, lane, &state)
        }
    }

    /// Takes up to `maxFrames` waiting packets out, in order, without waiting for more.
    public func drain(_ address: VirtualAddress, maxFrames: Int) throws(AddressingError) -> [HeldFrame] {
        let lane = try lane(address)
        return try lane.state.withLock { (state) throws(AddressingError) in
            let frames = try takeFrames(lane, maxFrames)
            if !frames.isEmpty {
                state.balance += Int64(frames.count)
                try publish(address, lane, &state)
            }
            return frames
        }
    }

    /// Puts packets that were drained, here or on another host, into this host's stack as if the NIC had just received
    /// them, past the hold. All are checked before any is put in. Returns when they are through.
    public func inject(_ address: VirtualAddress, _ frames: [HeldFrame]) throws(AddressingError) {
        for frame in frames {
            if let why = frame.defect(for: address) { throw .badFrame(address: address, why: why) }
        }
        let lane = try lane(address)
        try lane.state.withLock { (state) throws(AddressingError) in
            state.balance -= Int64(frames.count)
            try publish(address, lane, &state)
            try putBack(address, lane, frames, &state)
        }
    }

    /// Ends the hold: everything that waits goes on in order, then what comes passes by itself; `silent` ends too.
    ///
    /// Nothing is overtaken: while draining, each packet takes a ticket and passes only when all before it have. Only
    /// where packets come faster than they can be put back for `catchUpMilliseconds` (a flood; TCP senders stop at
    /// their windows) do later ones overtake; none is lost then either.
    /// The hold has ended also when this throws `.releaseIncomplete`.
    public func release(_ address: VirtualAddress, catchUpMilliseconds: Int = 250) throws(AddressingError) {
        let lane = try lane(address)
        let missing = try lane.state.withLock { (state) throws(AddressingError) in
            state.mode = state.mode.subtracting(.silent).union(.drain)
            try publish(address, lane, &state)
            let limit = Clock.monotonic + Int64(catchUpMilliseconds) * 1_000_000
            let first = try empty(address, lane, &state, limit: limit)
            state.mode = []
            try publish(address, lane, &state)
            try waitForPacketsUnderWay()
            let rest = try empty(address, lane, &state, limit: .max)
            return (first ?? 0) + (rest ?? 0)
        }
        if missing > 0 { throw .releaseIncomplete(address: address, missing: Int(missing)) }
    }

    public func counters(_ address: VirtualAddress) throws(AddressingError) -> HoldCounters {
        let lane = try lane(address)
        let tally = try tally(address)
        return HoldCounters(
            heldPackets: tally.packets, heldBytes: tally.bytes, droppedAtBound: try dropped(lane),
            passed: tally.passed, silenced: tally.silenced)
    }

    /// Forgets an address: its tap and what waits in it go, its packets are left alone from now on. Repeatable.
    public func close(_ address: VirtualAddress) throws(AddressingError) {
        let lane = lanes.withLock { $0.removeValue(forKey: HoldAddress(address)) }
        try kernel { () throws(KernelError) in
            try programs.modes.remove(HoldAddress(address))
            try programs.tallies.remove(HoldAddress(address))
            if let lane { try programs.taps.remove(lane.tap.interface.index) }
        }
    }
}

// MARK: - One lane

extension HoldQueue {
    private func lane(_ address: VirtualAddress) throws(AddressingError) -> Lane {
        guard let lane = lanes.withLock({ $0[HoldAddress(address)] }) else { throw .notPrepared(address) }
        return lane
    }

    private func makeLane(_ address: VirtualAddress, _ nic: NetworkInterface) throws(AddressingError) -> Lane {
        let tap = try kernel { () throws(KernelError) in try TapDevice(pattern: "mobh%d") }
        let interface = tap.interface
        let hardware = try kernel { () throws(KernelError) in
            let hardware = try nic.hardwareAddress()
            try tap.enableOffloads()
            try interface.setHardwareAddress(hardware)
            try interface.setMTU(try nic.mtu())
            try interface.setTransmitQueueLength(bound)
            // The tap is a place to wait, not a link: no router solicitations, no address, no ARP.
            let switchIPv6 = "/proc/sys/net/ipv6/conf/\(interface.name)/disable_ipv6"
            if Files.exists(switchIPv6) { try Files.writeControl(switchIPv6, "1") }
            try interface.setFlags(adding: 0x80)  // IFF_NOARP
            try programs.taps.set(interface.index, to: nic.index)
            return hardware
        }
        try programs.object.attach("hold_inject", to: interface, ingress: true)
        let lane = Lane(tap: tap, nic: nic, hardware: hardware)
        try kernel { () throws(KernelError) in
            try interface.setFlags(adding: 0x1)  // IFF_UP
            // What waited in a former process's tap is gone; count from here. The mode stays as that process left it.
            let old = try programs.modes.value(HoldAddress(address), empty: HoldModeRecord())
            let mode = HoldMode(rawValue: old?.flags ?? 0).subtracting(.drain)
            try programs.tallies.set(HoldAddress(address), to: HoldTallyRecord())
            lane.state.withLock { $0.mode = mode }
            try programs.modes.set(
                HoldAddress(address), to: HoldModeRecord(flags: mode.rawValue, tap: interface.index))
        }
        return lane
    }

    /// Tells the programs the mode, and which tickets are accounted for.
    func publish(
        _ address: VirtualAddress, _ lane: Lane, _ state: inout Lane.State
    ) throws(AddressingError) {
        state.dropped = Int64(clamping: try dropped(lane))
        try publishAsCounted(address, lane, state)
    }

    /// The same without asking the tap anew, which takes longer than a packet.
    func publishAsCounted(
        _ address: VirtualAddress, _ lane: Lane, _ state: Lane.State
    ) throws(AddressingError) {
        try kernel { () throws(KernelError) in
            try programs.modes.set(
                HoldAddress(address),
                to: HoldModeRecord(
                    flags: state.mode.rawValue, tap: lane.tap.interface.index,
                    settled: state.balance + state.lost + state.dropped - state.underWay))
        }
    }

    func dropped(_ lane: Lane) throws(AddressingError) -> UInt64 {
        try RouteSocket().droppedOnTransmit(lane.tap.interface)
    }

    func tally(
        _ address: VirtualAddress
    ) throws(AddressingError) -> HoldTallyRecord {
        let tally = try kernel { () throws(KernelError) in
            try programs.tallies.value(HoldAddress(address), empty: HoldTallyRecord())
        }
        guard let tally else { throw .notPrepared(address) }
        return tally
    }

    /// A packet that another processor was judging by the old mode may still arrive in the tap: waits until all such
    /// are through, which are read-side sections of RCU.
    private func waitForPacketsUnderWay() throws(AddressingError) {
        do throws(KernelError) {
            try systemCall("membarrier") { ck_syscall(Int(SYS_membarrier), 1, 0, 0, 0, 0, 0) }  // CMD_GLOBAL
        } catch  where error.code == .invalidArgument {
            // Not offered with nohz_full=, and nothing tells the end of a packet's way: it takes microseconds.
            _ = poll(nil, 0, 10)
        } catch {
            throw .kernel(error)
        }
    }
}
