import CKernel
import Glibc
import Kernel
import ProcessImage
import Resources

extension ServiceRestore {
    /// Makes every description in its home process, gives copies to the others, then connects what refers to others.
    func restoreDescriptors() throws(RestoreError) {
        let highest = image.processes.flatMap(\.descriptors).map(\.number).max() ?? 0
        for process in image.processes {
            let embryo = try member(process.pid)
            try step(process.pid, "control descriptor") { () throws(KernelError) in
                try embryo.keepClear(of: 0..<highest + 1)
            }
        }
        for stage in RestoreStage.allCases {
            for index in image.descriptions.indices where try kind(index).stage == stage { try make(Int32(index)) }
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
    private func places(_ index: Int32) -> [(pid: Int32, descriptor: DescriptorImage)] {
        image.processes.flatMap { process in
            process.descriptors.filter { $0.description == index }.map { (process.pid, $0) }
        }
    }

    private func make(_ index: Int32) throws(RestoreError) {
        let description = image.descriptions[Int(index)]
        guard let home = places(index).first else { return }
        let embryo = try member(home.pid)
        let kind = try kind(Int(index))
        let temporary = try resource { () throws(ResourceError) in
            try kind.restore(description, index: index, in: embryo, context: self)
        }
        try place(temporary, home.descriptor, in: embryo, closing: true)
        homes[index] = (home.pid, home.descriptor.number)
    }

    private func place(
        _ number: Int32, _ descriptor: DescriptorImage, in embryo: Embryo, closing: Bool
    ) throws(RestoreError) {
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
        try step(embryo.pid, object) { () throws(KernelError) in try embryo.run(calls) }
    }

    /// Copies to the other numbers and processes; owner and signal of the description.
    private func spread(_ index: Int32) throws(RestoreError) {
        let all = places(index)
        guard let home = all.first else { return }
        let description = image.descriptions[Int(index)]
        for other in all.dropFirst() {
            let embryo = try member(other.pid)
            if other.pid == home.pid {
                try place(home.descriptor.number, other.descriptor, in: embryo, closing: false)
                continue
            }
            let number = try step(other.pid, "fd \(other.descriptor.number)") { () throws(KernelError) in
                try embryo.give(try take(description: index), minimum: 0)
            }
            try place(number, other.descriptor, in: embryo, closing: true)
        }
        guard description.owner != 0 || description.ownerSignal != 0 else { return }
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
