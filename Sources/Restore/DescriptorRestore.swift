import CKernel
import Glibc
import Kernel
import ProcessImage
import Resources

extension ServiceRestore {
    /// Makes every description in its home process, gives copies to the others, then connects what refers to others.
    func restoreDescriptors() throws(RestoreError) {
        let highest = image.processes.flatMap(\.descriptors).map(\.number).max() ?? 0
        placesOf = [:]
        for process in image.processes {
            for descriptor in process.descriptors {
                placesOf[descriptor.description, default: []].append((process.pid, descriptor))
            }
        }
        for process in image.processes {
            let embryo = try member(process.pid)
            try step(process.pid, "control descriptor") { () throws(KernelError) in
                try embryo.keepClear(of: 0..<highest + 1)
            }
        }
        for stage in RestoreStage.allCases {
            for group in try groups(stage) { try make(group, above: highest) }
        }
        for index in image.descriptions.indices { try spread(Int32(index)) }
        for index in image.descriptions.indices { try connect(Int32(index)) }
    }

    private func kind(_ index: Int) throws(RestoreError) -> any DescriptorKind.Type {
        let name = image.descriptions[index].kind
        guard let kind = DescriptorKinds.named(name) else { throw .image("unknown kind of descriptor \(name)") }
        return kind
    }

    /// All places of a description, its home first.
    private func places(_ index: Int32) -> [(pid: Int32, descriptor: DescriptorImage)] { placesOf[index] ?? [] }

    /// Descriptions of one kind and home that are made at once.
    private struct Group {
        var kind: any DescriptorKind.Type
        var pid: Int32
        var indices: [Int32] = []
    }

    private func groups(_ stage: RestoreStage) throws(RestoreError) -> [Group] {
        var groups: [Group] = []
        for index in image.descriptions.indices {
            let kind = try kind(index)
            guard kind.stage == stage, let home = places(Int32(index)).first else { continue }
            // Others may need what was made just before them at its place.
            let joins = stage == .connections && groups.last?.kind == kind && groups.last?.pid == home.pid
            if !joins || groups.last?.indices.count == 100 {
                groups.append(Group(kind: kind, pid: home.pid))
            }
            groups[groups.count - 1].indices.append(Int32(index))
        }
        return groups
    }

    private func make(_ group: Group, above highest: Int32) throws(RestoreError) {
        let embryo = try member(group.pid)
        var temporary = try resource { () throws(ResourceError) in
            try group.kind.restoreAll(group.indices, in: embryo, context: self)
        }
        let homes = group.indices.compactMap { places($0).first }
        // What is still to be moved must not be overwritten by what is moved before it.
        if group.indices.count > 1, !Set(temporary).isDisjoint(with: homes.map(\.descriptor.number)) {
            temporary = try park(temporary, above: highest, in: embryo)
        }
        let calls = zip(temporary, homes).flatMap { place($0, $1.descriptor, closing: true) }
        try run(calls, in: embryo, "numbers of descriptors")
        for (index, home) in zip(group.indices, homes) { self.homes[index] = (home.pid, home.descriptor.number) }
    }

    private func park(_ numbers: [Int32], above highest: Int32, in embryo: Embryo) throws(RestoreError) -> [Int32] {
        let calls = numbers.flatMap { number in
            [
                EmbryoCall(
                    Int32(SYS_fcntl), [.int(number), .int(Int(F_DUPFD_CLOEXEC)), .int(highest + 1)],
                    on: "fd \(number)"),
                EmbryoCall(Int32(SYS_close), [.int(number)], on: "fd \(number)"),
            ]
        }
        let results = try step(embryo.pid, "numbers of descriptors") { () throws(KernelError) in
            try embryo.run(calls)
        }
        return stride(from: 0, to: results.count, by: 2).map { Int32(clamping: results[$0].value) }
    }

    private func place(_ number: Int32, _ descriptor: DescriptorImage, closing: Bool) -> [EmbryoCall] {
        let object = "fd \(descriptor.number)"
        let flags = descriptor.closeOnExec ? O_CLOEXEC : 0
        var calls: [EmbryoCall] = []
        if number == descriptor.number {
            calls.append(
                EmbryoCall(
                    Int32(SYS_fcntl), [.int(number), .int(Int(F_SETFD)), .int(descriptor.closeOnExec ? 1 : 0)],
                    on: object))
        } else {
            calls.append(EmbryoCall(Int32(SYS_dup3), [.int(number), .int(descriptor.number), .int(flags)], on: object))
            if closing { calls.append(EmbryoCall(Int32(SYS_close), [.int(number)], on: object)) }
        }
        return calls
    }

    private func run(_ calls: [EmbryoCall], in embryo: Embryo, _ what: String) throws(RestoreError) {
        try step(embryo.pid, what) { () throws(KernelError) in try embryo.run(calls) }
    }

    /// Copies to the other numbers and processes; owner and signal of the description.
    private func spread(_ index: Int32) throws(RestoreError) {
        let all = places(index)
        guard let home = all.first else { return }
        let description = image.descriptions[Int(index)]
        for other in all.dropFirst() {
            let embryo = try member(other.pid)
            if other.pid == home.pid {
                let calls = place(home.descriptor.number, other.descriptor, closing: false)
                try run(calls, in: embryo, "fd \(other.descriptor.number)")
                continue
            }
            let number = try step(other.pid, "fd \(other.descriptor.number)") { () throws(KernelError) in
                try embryo.give(try take(description: index), minimum: 0)
            }
            let calls = place(number, other.descriptor, closing: true)
            try run(calls, in: embryo, "fd \(other.descriptor.number)")
        }
        let isAsynchronous = description.statusFlags & OpenFlag.asynchronous != 0
        guard description.owner != 0 || description.ownerSignal != 0 || isAsynchronous else { return }
        let embryo = try member(home.pid)
        var owner = Words()
        owner.add(description.ownerType)
        owner.add(description.owner)
        try step(home.pid, "owner of fd \(home.descriptor.number)") { () throws(KernelError) in
            try embryo.run([
                EmbryoCall(
                    Int32(SYS_fcntl), [.int(home.descriptor.number), .int(15), .bytes(owner.bytes)], on: "F_SETOWN_EX"),
                EmbryoCall(
                    Int32(SYS_fcntl), [.int(home.descriptor.number), .int(10), .int(description.ownerSignal)],
                    on: "F_SETSIG"),
            ])
            guard isAsynchronous else { return }
            // Its signals go to the owner, so it comes last; F_SETFL wants all flags.
            try embryo.run([
                EmbryoCall(
                    Int32(SYS_fcntl), [.int(home.descriptor.number), .int(F_SETFL), .int(description.statusFlags)],
                    on: "F_SETFL")
            ])
        }
    }

    private func connect(_ index: Int32) throws(RestoreError) {
        guard let home = homes[index] else { return }
        let embryo = try member(home.pid)
        let kind = try kind(Int(index))
        try resource { () throws(ResourceError) in
            try kind.connect(
                image.descriptions[Int(index)], index: index, number: home.number, in: embryo, context: self)
        }
    }
}
