import Addressing
import Kernel
import Units

/// The addresses of a unit that starts or stops on this host, outside any move.
public struct AddressClaim: Sendable {
    private let host: Host
    private let unit: String

    public init(host: Host, unit: String) {
        self.host = host
        self.unit = unit
    }

    /// Puts the unit's addresses on their interfaces, after asking the network whether somebody has them (RFC 5227),
    /// announces them, and attaches the connect hook to the unit's cgroup. All or nothing.
    public func claim(others: [(unit: String, addresses: [VirtualAddress])]) throws(MoveError) {
        let view = try UnitView.load(unit, systemd: try SourceMove.systemd())
        for other in others where other.unit != unit {
            if let shared = view.addresses.first(where: { address in
                other.addresses.contains { $0.bytes == address.bytes }
            }) {
                throw MoveError(
                    .addressInUse,
                    "\(shared) is also the VirtualAddress= of \(other.unit); an address belongs to one unit")
            }
        }
        if let line = NameLines.check(view).first(where: { !$0.passed }) {
            throw MoveError(.addressUnavailable, "DNSName=\(line.subject): \(line.why)")
        }
        // Packets for a service that has left are no longer sent on once it is wanted here again.
        host.forwardings.end(view.addresses)
        var undo = UndoStack()
        do throws(MoveError) {
            let places = try view.interfaces(host.addresses)
            try probe(places)
            try claim(places, &undo)
            try SourceMove.step("attaching the connect hook of \(unit)") {
                try host.hook.attach(
                    unit: unit, cgroupPath: try view.cgroup().path, vips: view.addresses,
                    options: view.hookOptions)
            }
        } catch {
            undo.rollBack().forEach { host.log.error("undoing the claim of \(unit): \($0)") }
            throw error
        }
    }

    /// Asks the network for all at once: each interface takes as long as one address.
    private func probe(_ places: [(VirtualAddress, NetworkInterface)]) throws(MoveError) {
        do throws(AddressingError) {
            let present = Dictionary(grouping: try host.addresses.list().addresses, by: \.interfaceIndex).mapValues {
                Set($0.map(\.address.bytes))
            }
            for (index, mine) in Dictionary(grouping: places, by: \.1.index).sorted(by: { $0.key < $1.key }) {
                let absent = mine.map(\.0).filter { !(present[index]?.contains($0.bytes) ?? false) }
                try host.hold.attach(to: mine[0].1)
                if !absent.isEmpty { try ConflictProbe().run(absent, on: mine[0].1) }
            }
        } catch {
            if case .conflict = error { throw MoveError(.addressInUse, "\(error)") }
            throw MoveError(.addressUnavailable, "\(error)")
        }
    }

    private func claim(
        _ places: [(VirtualAddress, NetworkInterface)], _ undo: inout UndoStack
    ) throws(MoveError) {
        do throws(AddressingError) {
            let added = try host.addresses.add(places)
            undo.push("addresses") { [host] in try host.addresses.remove(added) }
        } catch {
            throw MoveError(.addressUnavailable, "\(error)")
        }
        host.announce(places)
        host.watches.begin(places, for: unit)
        undo.push("watches") { [host, unit] in
            host.stopAnnouncing(places.map(\.0))
            host.watches.end(unit)
        }
    }

    /// Announces and watches over the addresses of a unit that a former process of this daemon left running here,
    /// after a look whether they are still there: nobody watched meanwhile. One that somebody else has by now is left
    /// to him. A unit that has not claimed its addresses has nothing to resume.
    public func resume() throws(MoveError) {
        let view = try UnitView.load(unit, systemd: try SourceMove.systemd())
        guard view.isRunning, host.ownership.state(of: unit).isHere else { return }
        let cgroup = try view.cgroup()
        let isClaimed = try SourceMove.step("looking at the connect hook of \(unit)") {
            try host.hook.isAttached(unit: unit, cgroupPath: cgroup.path)
        }
        guard isClaimed else { return }
        var kept: [(VirtualAddress, NetworkInterface)] = []
        let present = try SourceMove.step("listing addresses") { try host.addresses.list() }
        for (address, interface) in try view.interfaces(in: present) {
            do throws(AddressingError) {
                if !present.contains(address, on: interface) {
                    try ConflictProbe().run(address, on: interface)
                    try host.addresses.add(address, to: interface)
                    host.log.warning(
                        "somebody removed \(address) of \(unit) while mobilityd did not run; it is back",
                        metadata: ["unit": "\(unit)", "address": "\(address.text)"])
                }
                kept.append((address, interface))
            } catch {
                host.log.error("\(address) of \(unit) is lost: \(error)", metadata: ["unit": "\(unit)"])
            }
        }
        host.announce(kept)
        host.watches.begin(kept, for: unit)
    }

    /// Gives the addresses up if the unit has ended. For a stop that came in a move, when `release` is not called.
    public func releaseIfEnded() throws(MoveError) {
        guard let view = try? UnitView.load(unit, systemd: try SourceMove.systemd()) else { return }
        guard view.hasEnded, host.ownership.state(of: unit).isHere else { return }
        try release()
    }

    /// The reverse; what is not there is no error.
    public func release() throws(MoveError) {
        // First, and by the unit: its annotation may name other addresses by now.
        host.watches.end(unit)
        let view = try UnitView.load(unit, systemd: try SourceMove.systemd())
        let places = try view.interfaces(host.addresses)
        host.stopAnnouncing(places.map(\.0))
        do throws(AddressingError) { try host.addresses.remove(places) } catch {
            throw MoveError(.addressUnavailable, "\(error)")
        }
        try SourceMove.step("detaching the connect hook of \(unit)") { try host.hook.detach(unit: unit) }
    }
}

/// What a node says of a unit that another one asks about.
public enum Whereabouts: Equatable, Sendable {
    /// It runs there, or it is in a move.
    case taken
    /// Neither runs nor will it there: it is the asker's.
    case free
    /// It was given to that node.
    case passedOn(to: String)
}

extension Host {
    /// Asks an enrolled node for a unit that this host does not run; a `channel` error when it does not answer.
    public func whereabouts(of unit: String, from node: String) throws(MoveError) -> Whereabouts {
        let conversation = try connect(to: node)
        defer { conversation.channel.close() }
        try conversation.send(.askRunning, RunningAnswer(unit: unit, running: false))
        let answer = try conversation.expect(.running, as: RunningAnswer.self, within: 10_000)
        if let owner = answer.owner { return .passedOn(to: owner) }
        return answer.running ? .taken : .free
    }

    /// The unit went from node to node since it left: the record follows it.
    public func follow(_ unit: String, to node: String) throws(MoveError) {
        try SourceMove.step("recording that \(unit) is node \(node)'s") {
            try ownership.record(.departed(to: node), for: unit)
        }
    }

    /// The unit that had left belongs to this host again.
    public func reclaim(_ unit: String) throws(MoveError) {
        try SourceMove.step("recording that \(unit) is here") { try ownership.record(.here, for: unit) }
    }
}
